"""Why partitions are paused: a pause ends when no reason is left."""

from __future__ import annotations

from trio_broadway_kafka._model._offsets import PartitionOffsets

__all__ = ["Pauses"]


class Pauses:
    """The reasons for which partitions are paused.

    - ``"entering"``: the partition's stages are not there yet;
    - ``"user"``: somebody asked for it; that survives the assignment;
    - ``"policy"``: a failed message asked for it, by `PausePartition`;
    - ``"share"``: its blocked messages hold their share.

    Attributes:
        entering: these assignments' stages are not there yet.
        policy: these have a message that failed, and wait with it.
        sharing: these hold their share.
    """

    def __init__(self) -> None:
        self._by_user: set[tuple[str, int]] = set()
        self.entering: set[PartitionOffsets] = set()
        self.policy: set[PartitionOffsets] = set()
        self.sharing: set[PartitionOffsets] = set()

    def by_user(self, topic: str, partition: int) -> None:
        """Somebody asked for it."""
        self._by_user.add((topic, partition))

    def end_by_user(self, topic: str, partition: int) -> bool:
        """Somebody asked to end it. Returns whether there was anything to end."""
        address = (topic, partition)
        found = address in self._by_user
        self._by_user.discard(address)
        return found

    def of(self, state: PartitionOffsets) -> tuple[str, ...]:
        """The reasons, none if it is not paused."""
        reasons: tuple[str, ...] = ("entering",) if state in self.entering else ()
        if (state.topic, state.partition) in self._by_user:
            reasons += ("user",)
        if state in self.policy:
            reasons += ("policy",)
        return (*reasons, "share") if state in self.sharing else reasons

    def clear(self, state: PartitionOffsets) -> None:
        """No reason is left but the user's: it has ended, or nothing of it is here."""
        for states in (self.entering, self.policy, self.sharing):
            states.discard(state)
