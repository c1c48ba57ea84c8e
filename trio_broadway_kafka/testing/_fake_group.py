"""A consumer group of the fake broker: who owns what, who shall, and what is committed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trio_broadway_kafka._kafka._client import AssignedPartition, OffsetCommit, TopicPartition
from trio_broadway_kafka._model._errors import KafkaFailure

__all__ = ["Group", "Member", "StoredOffset", "assign_sticky"]

# As Kafka's offset.metadata.max.bytes (4096), which the client's final NUL counts towards.
MAX_METADATA = 4095


@dataclass(slots=True, eq=False)
class Member:
    """One membership of a client; a client that was fenced comes back as a new one.

    Attributes:
        client: whose membership it is.
        topics: names, or patterns that start with ``^``.
        owned: the partitions it holds, each with the client's epoch.
        lost: taken away without its knowledge, until it has reported that.
        forfeited: the epochs that ended so.
        returning: owned ones that are to be revoked although it gets them back.
        fenced: the group has gone on without it.
        expires_at: when its session ends, if nothing is heard of it before.
    """

    client: object
    topics: tuple[str, ...]
    owned: dict[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])
    lost: dict[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])
    forfeited: set[int] = field(default_factory=set[int])
    returning: set[TopicPartition] = field(default_factory=set[TopicPartition])
    fenced: bool = False
    expires_at: float = math.inf

    def expire_by(self, time: float) -> None:
        """Nothing will be heard of it: let its session end then, if not before."""
        self.expires_at = min(self.expires_at, time)


@dataclass(frozen=True, slots=True)
class StoredOffset:
    """A committed offset and its metadata."""

    offset: int
    metadata: str


class Group:
    """Members, the assignment they are moving towards, and the committed offsets.

    Rebalances are cooperative: only what changes hands is revoked, and a partition is
    given to its new owner once the old one has let it go.

    Args:
        matching: the partitions that a subscription covers now.
    """

    def __init__(
        self, matching: Callable[[tuple[str, ...]], Collection[TopicPartition]]
    ) -> None:
        self._matching = matching
        self._target: dict[TopicPartition, Member] = {}
        self._owners: dict[TopicPartition, Member] = {}
        self.members: list[Member] = []
        self.committed: dict[TopicPartition, StoredOffset] = {}

    def assigned(
        self, partition: TopicPartition, epoch: int, start: int | None, topic_id: str
    ) -> AssignedPartition:
        """A partition as it is told to its new owner."""
        stored = self.committed.get(partition)
        return AssignedPartition(
            partition.topic,
            partition.partition,
            epoch,
            committed=stored.offset if stored else None,
            # As a real client: no text is no metadata.
            metadata=(stored.metadata or None) if stored else None,
            start=start,
            topic_id=topic_id,
        )

    # Membership

    def join(self, client: object, topics: tuple[str, ...]) -> Member:
        """Add a member; what it shall own is there for it to take, or will be."""
        member = Member(client, topics)
        self.members.append(member)
        self.rebalance()
        return member

    def leave(self, member: Member) -> None:
        """Remove a member that is done with its partitions."""
        if not member.fenced:
            self._fence(member)

    def expire(self, now: float) -> bool:
        """Fence the members whose sessions have ended; tell whether there were any."""
        expired = [member for member in self.members if member.expires_at <= now]
        for member in expired:
            self._fence(member)
        return bool(expired)

    def next_expiry(self) -> float:
        """When the first session ends, inf if all are kept alive."""
        return min((member.expires_at for member in self.members), default=math.inf)

    def owned_by(
        self, client: object, partitions: Iterable[tuple[str, int]] | None
    ) -> tuple[Member, list[TopicPartition]]:
        """The member that a client is, and these partitions of it (None: all)."""
        member = self.member_of(client)
        if partitions is None:
            return member, list(member.owned)
        chosen = [TopicPartition(*partition) for partition in partitions]
        for partition in chosen:
            if partition not in member.owned:
                raise ValueError(f"{client!r} does not own {partition}")
        return member, chosen

    def member_of(self, client: object) -> Member:
        """The membership of a client.

        Raises:
            ValueError: it is not in the group now.
        """
        for member in self.members:
            if member.client is client:
                return member
        raise ValueError(f"{client!r} is not a member of the group: does it run?")

    def _fence(self, member: Member) -> None:
        member.fenced = True
        self.members.remove(member)
        self.take_away(member, list(member.owned))
        self.rebalance()

    # Assignment

    def rebalance(self) -> None:
        """Compute anew who shall own what."""
        wanted = {member: self._matching(member.topics) for member in self.members}
        self._target = assign_sticky(wanted, self._target)

    def subscribe(self, member: Member, topics: tuple[str, ...]) -> None:
        """The member wants these from now on."""
        member.topics = topics
        self.rebalance()

    def forget(self, topic: str) -> None:
        """The topic is gone, and the offsets committed for it."""
        for partition in [p for p in self.committed if p.topic == topic]:
            del self.committed[partition]

    def move(self, partitions: Iterable[TopicPartition], owner: Member, to: Member) -> None:
        """Have `owner` give these up in order, and `to` (it may be the same) get them."""
        for partition in partitions:
            self._target[partition] = to
            if to is owner:
                owner.returning.add(partition)

    def take_away(self, member: Member, partitions: Iterable[TopicPartition]) -> None:
        """End the ownership of these at once; the member will learn of it."""
        for partition in partitions:
            member.lost[partition] = member.owned[partition]
            member.forfeited.add(member.owned[partition])
            self.give_up(member, partition)

    def give_up(self, member: Member, partition: TopicPartition) -> None:
        """The member holds this no longer; it may be taken by who shall own it."""
        if member.owned.pop(partition, None) is not None:
            del self._owners[partition]
            member.returning.discard(partition)

    def to_revoke(self, member: Member) -> list[TopicPartition]:
        """What the member owns and has to let go."""
        return [
            partition
            for partition in member.owned
            if self._target.get(partition) is not member or partition in member.returning
        ]

    def to_take(self, member: Member) -> list[TopicPartition]:
        """What the member shall own and nobody owns."""
        return sorted(
            partition
            for partition, owner in self._target.items()
            if owner is member and partition not in self._owners
        )

    def take(self, member: Member, partition: TopicPartition, epoch: int) -> None:
        """The member owns this from now on."""
        self._owners[partition] = member
        member.owned[partition] = epoch

    # Offsets

    def commit(self, member: Member, offsets: Sequence[OffsetCommit]) -> None:
        """Store all of these, or none.

        Raises:
            KafkaFailure: the member was fenced, or a partition isn't its own in that
                epoch, or a metadata is too long.
        """
        for commit in offsets:
            partition = TopicPartition(commit.topic, commit.partition)
            if member.fenced or commit.epoch in member.forfeited:
                raise _refused("the group has gone on without this member", "UNKNOWN_MEMBER_ID")
            if member.owned.get(partition) != commit.epoch:
                raise _refused(f"{partition} is of another generation", "ILLEGAL_GENERATION")
            if len(commit.metadata) > MAX_METADATA:
                raise _refused(
                    f"the metadata of {partition} has {len(commit.metadata)} characters,"
                    f" more than {MAX_METADATA}",
                    "OFFSET_METADATA_TOO_LARGE",
                )
        for commit in offsets:
            partition = TopicPartition(commit.topic, commit.partition)
            self.committed[partition] = StoredOffset(commit.offset, commit.metadata)


def _refused(reason: str, code: str) -> KafkaFailure:
    # As a real client has it: what is live is committed again after a poll.
    retriable = code == "ILLEGAL_GENERATION"
    return KafkaFailure(f"the commit was refused: {reason}", code=code, retriable=retriable)


def assign_sticky(
    wanted: Mapping[Member, Collection[TopicPartition]],
    previous: Mapping[TopicPartition, Member],
) -> dict[TopicPartition, Member]:
    """Share partitions out evenly, leaving as many as possible where they are.

    Args:
        wanted: the partitions that each member's subscription covers; members that come
            earlier get more where the division leaves a remainder.
        previous: the assignment to stay close to.
    """
    shares: dict[Member, list[TopicPartition]] = {member: [] for member in wanted}
    orphans: list[TopicPartition] = []
    for partition in sorted(
        {partition for covered in wanted.values() for partition in covered}
    ):
        keeper = previous.get(partition)
        if keeper is not None and partition in wanted.get(keeper, ()):
            shares[keeper].append(partition)
        else:
            orphans.append(partition)
    for partition in orphans:
        takers = [member for member in wanted if partition in wanted[member]]
        min((shares[member] for member in takers), key=len).append(partition)
    while _even_out(shares, wanted):
        pass
    return {partition: member for member, share in shares.items() for partition in share}


def _even_out(
    shares: Mapping[Member, list[TopicPartition]],
    wanted: Mapping[Member, Collection[TopicPartition]],
) -> bool:
    """Move one partition from a larger share to one that is smaller by two or more."""
    for giver in sorted(shares, key=lambda member: -len(shares[member])):
        for taker in sorted(shares, key=lambda member: len(shares[member])):
            if len(shares[giver]) - len(shares[taker]) < 2:
                break
            for partition in reversed(shares[giver]):
                if partition in wanted[taker]:
                    shares[giver].remove(partition)
                    shares[taker].append(partition)
                    return True
    return False
