"""Which partitions are fetched: why some are paused, and when that ends.

A partition that holds its share of what is unfinished is held back by itself, so that the
others have room; so is one with too much finished behind an unfinished message.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from trio_broadway_kafka._kafka._client import KafkaClient, TopicPartition
from trio_broadway_kafka._model._demand import Demand
from trio_broadway_kafka._model._lanes import Intake
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._pauses import Pauses

__all__ = ["Pausing", "address_of"]


class Pausing:
    """Pauses and resumes the partitions of one source.

    Args:
        client: the member of the group.
        partitions: the live assignments.
        demand: knows a partition's share.
        intake: where the messages wait.
        gap_limit: how many messages of a partition may be finished behind an unfinished
            one before it is held.
        came_back: called when messages that were held can be taken again.

    Attributes:
        pauses: the reasons.
    """

    def __init__(
        self,
        client: KafkaClient,
        partitions: Mapping[TopicPartition, PartitionOffsets],
        demand: Demand,
        intake: Intake,
        *,
        gap_limit: int,
        came_back: Callable[[], None],
    ) -> None:
        self.pauses = Pauses()
        self._client = client
        self._partitions = partitions
        self._demand = demand
        self._intake = intake
        self._gap_limit = gap_limit
        self._came_back = came_back
        self._since_gap_check = 0
        self._stale: set[PartitionOffsets] = set()

    def assigned(self, states: Collection[PartitionOffsets], *, enter: bool) -> None:
        """These are new: pause those that are to be entered first, or were paused before."""
        if enter:
            self.pauses.entering.update(states)
        if paused := [address_of(state) for state in states if self.pauses.of(state)]:
            self._client.pause(paused)

    # What users and stages ask for.

    def pause(self, address: TopicPartition) -> None:
        """Fetch no more of a partition until `resume`, over rebalances too."""
        self.pauses.by_user(*address)
        self._client.pause([address])

    def resume(self, address: TopicPartition) -> None:
        """End a `pause`; nothing to do if there is none."""
        state = self._partitions.get(address)
        if self.pauses.end_by_user(*address) and state is not None:
            self._resume_unless_paused(state)

    def by_policy(self, state: PartitionOffsets, *, is_fetching: bool) -> None:
        """Fetch no more of a partition until it is `ready` again."""
        self.pauses.policy.add(state)
        if is_fetching:
            self._stale.add(state)
        self._client.pause([address_of(state)])

    def is_stale(self, state: PartitionOffsets) -> bool:
        """Whether what has just arrived may be from before a pause by policy, and that pause
        is over: then it does not begin where it should, and is asked for again."""
        if state not in self._stale:
            return False
        if not self.pauses.of(state):
            self._client.pause([address_of(state)])
            self._resume_unless_paused(state)
        return True

    def answered(self) -> None:
        """A fetch has been answered: what comes next was asked for after all pauses."""
        self._stale.clear()

    def ready(self, state: PartitionOffsets) -> None:
        """A partition's stages are there, or a pause by policy is over. Nothing of it is
        here; it is read from its ``position`` on."""
        self.pauses.clear(state)
        if state.held:
            self._intake.let_go(state)
        self._resume_unless_paused(state)

    def _resume_unless_paused(self, state: PartitionOffsets) -> None:
        if state.live and not self.pauses.of(state):
            self._client.resume({address_of(state): state.position})

    # Shares and gaps.

    def received(self, count: int) -> None:
        """So many messages have arrived."""
        self._since_gap_check += count

    def hold_back(self, *, truncate: bool) -> None:
        """Pause the partitions whose blocked messages hold their share; if there is no room
        left (`truncate`), forget what is beyond the share."""
        share = self._demand.share(len(self._partitions))
        for state in self._partitions.values():
            blocked = self._intake.blocked(state)
            if blocked >= share:
                self._pause_for_share(state)
                if truncate and blocked > share:
                    self._intake.truncate(state, share)

    def hold_gaps(self) -> None:
        """Hold the partitions with too much finished behind an unfinished message.

        That is looked for once in a while: it looks at every live segment.
        """
        if self._since_gap_check * 2 < self._gap_limit:
            return
        self._since_gap_check = 0
        for state in self._partitions.values():
            if state.finished_behind_gap >= self._gap_limit or state.is_map_full():
                self.hold(state)

    def hold(self, state: PartitionOffsets) -> None:
        """Let nothing more of a partition start: too much is finished behind what is not."""
        self._intake.hold(state)
        if state.held:
            self._pause_for_share(state)

    def _pause_for_share(self, state: PartitionOffsets) -> None:
        if state not in self.pauses.sharing:
            self.pauses.sharing.add(state)
            self._client.pause([address_of(state)])

    def let_go(self) -> None:
        """Fetch again what was held back and has room now."""
        share = self._demand.share(len(self._partitions))
        for state in [*self.pauses.sharing]:
            if self._intake.blocked(state) * 2 > share and not state.held:
                continue
            if state.held:
                behind = state.finished_behind_gap
                if behind * 2 > self._gap_limit or state.parked * 2 > share:
                    continue
                if state.ahead.is_full and state.is_map_full():
                    continue
                self._intake.let_go(state)
                self._came_back()
            self.pauses.sharing.discard(state)
            self._resume_unless_paused(state)


def address_of(state: PartitionOffsets) -> TopicPartition:
    """The partition's address."""
    return TopicPartition(state.topic, state.partition)
