"""What tasks spend their time on: busy, idle and back-pressured sum up to all of it."""

from __future__ import annotations

from dataclasses import dataclass

from trio_broadway_kafka._model._stage_times import SAMPLE, SAMPLE_EVERY, StageTimes, Times


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Record:
    name: str
    when: tuple[int, int]

    def topic(self) -> str:
        return self.name

    def timestamp(self) -> tuple[int, int]:
        return self.when


def test_the_three_sum_up_to_the_time_of_all_tasks() -> None:
    clock = Clock()
    stage = StageTimes("s", clock)
    clock.now += 7  # before there is a task
    stage.change(tasks=3)
    clock.now += 1
    stage.change(busy=2)
    clock.now += 10
    stage.change(busy=-1, blocked=1)
    clock.now += 100
    found = stage.statistics()
    assert (found.busy_s, found.backpressured_s, found.idle_s) == (120, 100, 113)
    assert found.busy_s + found.idle_s + found.backpressured_s == 3 * 111
    assert (found.name, found.concurrency) == ("s", 3)


def test_a_task_that_has_ended_spends_no_more() -> None:
    clock = Clock()
    stage = StageTimes("s", clock)
    stage.change(tasks=2, busy=1)
    clock.now += 1
    stage.change(tasks=-2, busy=-1)
    clock.now += 1000
    found = stage.statistics()
    assert (found.busy_s, found.idle_s, found.concurrency) == (1, 1, 0)


def test_few_handlers_are_all_timed_and_of_many_a_part() -> None:
    clock = Clock()
    stage = StageTimes("s", clock)
    for _ in range(3):
        for _ in range(SAMPLE):
            assert stage.is_sample()
            assert stage.end(stage.begin()) == clock.now
        assert not stage.is_sample()
        clock.now += SAMPLE_EVERY
    assert stage.handling.statistics(clock.now).total == 3 * SAMPLE


def test_stages_of_one_name_count_together() -> None:
    times = Times(Clock())
    assert times.of("handle_message") is times.of("handle_message")
    times.of("handle_batch:b")
    assert [stage.name for stage in times.statistics()] == ["handle_message", "handle_batch:b"]


def test_end_to_end_is_from_the_timestamp_by_the_clock_that_made_it() -> None:
    times = Times(Clock(), wall_clock=lambda: 5.0)
    times.note_end(Record("a", (1, 2_000)), now=0.0)  # type: ignore[arg-type]
    times.note_end(Record("b", (2, 9_000)), now=0.0)  # type: ignore[arg-type]
    times.note_end(Record("b", (0, -1)), now=0.0)  # type: ignore[arg-type]
    found = times.end_to_end.statistics(0.0)
    assert (found.count, found.max) == (2, 3.0)
    of_topics = {topic: one.statistics(0.0) for topic, one in times.topics.items()}
    assert {topic: (one.count, one.max) for topic, one in of_topics.items()} == {
        "a": (1, 3.0),
        "b": (1, 0.0),  # produced in the future, by another clock
    }
