"""What goes wrong by itself on a `FakeBroker`, and that the same seed is the same run."""

from __future__ import annotations

import gc
import math
import pickle

import pytest
import trio
import trio.testing

from trio_broadway_kafka import Message, Stages, open_pipeline
from trio_broadway_kafka.testing import Chaos, FakeBroker, Fault, OutOfSteps, simulate


async def nothing(message: Message) -> None:
    await trio.sleep(0.1)


def test_a_seed_is_a_plan_and_the_plan_is_data() -> None:
    assert Chaos.from_seed(7) == Chaos.from_seed(7) != Chaos.from_seed(8)
    assert pickle.loads(pickle.dumps(Chaos.from_seed(7))) == Chaos.from_seed(7)
    assert eval(repr(Chaos.from_seed(7))) == Chaos.from_seed(7)
    plans = [Chaos.from_seed(seed, duration=10) for seed in range(200)]
    kinds = {fault.kind for plan in plans for fault in plan.faults}
    assert len(kinds) == 10
    assert max(fault.at for plan in plans for fault in plan.faults) <= 10
    assert max(fault.lasts for plan in plans for fault in plan.faults) <= 2


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Fault(1.0, "flood"), "kind must be one of"),  # type: ignore[arg-type]
        (lambda: Fault(-1.0, "revoke"), "at and lasts must be finite and not negative"),
        (lambda: Fault(1.0, "outage", lasts=math.inf), "at and lasts must be finite"),
        (lambda: Fault(1.0, "revoke", target=-1), "target must not be negative"),
        (lambda: Chaos(latency=-0.1), "latency must be finite and not negative"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(make: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()  # type: ignore[operator]


async def test_each_kind_does_what_it_says_at_its_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    plan = Chaos(
        (
            Fault(2.0, "revoke"),
            Fault(4.0, "lose"),
            Fault(6.0, "outage", lasts=3.0),
            Fault(12.0, "gap", target=2),
            Fault(14.0, "freeze", lasts=1.0),
        )
    )
    broker = FakeBroker(topics={"t": 1}, chaos=plan, session_timeout=5)
    epochs: list[tuple[float, int]] = []
    await trio.sleep(100)  # its times count from the first client
    began = trio.current_time()
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(handle_message=nothing)
    ) as pipeline:
        while trio.current_time() < began + 20:
            for p in pipeline.statistics().partitions:
                if not epochs or epochs[-1][1] != p.epoch:
                    epochs.append((round(trio.current_time() - began, 1), p.epoch))
            await trio.sleep(0.05)
        assert [epoch for _, epoch in epochs] == [1, 2, 3]
        assert [time for time, _ in epochs[1:]] == [2.0, 4.0]
        assert broker.faults == {"revoke": 1, "lose": 1, "outage": 1, "gap": 1, "freeze": 1}
        broker.produce("t", b"v")
        assert broker.records("t")[0].offset() == 3, "behind the gap"
        await broker.wait_committed("t", 0, 4)


async def test_an_outage_ends_and_errors_pass(autojump_clock: trio.testing.MockClock) -> None:
    plan = Chaos((Fault(0.5, "outage", lasts=10.0), Fault(0.5, "commit", target=5)))
    broker = FakeBroker(topics={"t": 1}, chaos=plan)
    broker.produce("t", b"v")
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(handle_message=nothing)
    ):
        await broker.wait_committed("t", 0, 1)
        assert 10.5 <= trio.current_time() <= 12


async def test_a_fault_that_has_nothing_to_act_on_does_not_count(
    autojump_clock: trio.testing.MockClock,
) -> None:
    plan = Chaos((Fault(1.0, "outage", lasts=5.0), Fault(2.0, "revoke"), Fault(9.0, "revoke")))
    broker = FakeBroker(topics={"t": 1}, chaos=plan)
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(handle_message=nothing)
    ):
        await trio.sleep(8)
        assert broker.faults == {"outage": 1, "revoke": 0}, "no group changes in an outage"
        await trio.sleep(2)
    assert broker.faults == {"outage": 1, "revoke": 1}


async def test_latency_is_up_to_what_was_said_and_the_same_for_the_same_request(
    autojump_clock: trio.testing.MockClock,
) -> None:
    times = []
    for _ in range(2):
        broker = FakeBroker(topics={"t": 1}, chaos=Chaos(latency=2.0, seed=3))
        start = trio.current_time()
        await trio.sleep_until(math.ceil(start / 1000) * 1000 + 1000)
        began = trio.current_time()
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=Stages(handle_message=nothing)
        ):
            times.append(trio.current_time() - began)
    assert all(0 < time <= 2.0 for time in times)


def trace_of(seed: int) -> list[tuple[float, int, int]]:
    trace = []

    async def handle(message: Message) -> None:
        trace.append((trio.current_time(), message.partition, message.offset))
        await trio.sleep(0.05)

    async def main() -> None:
        broker = FakeBroker(topics={"t": 2}, chaos=seed)
        for number in range(60):
            broker.produce("t", b"v", key=b"%d" % (number % 7), partition=number % 2)
        async with (
            open_pipeline(
                client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
            ),
            open_pipeline(
                client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
            ),
        ):
            for partition in range(2):
                await broker.wait_committed("t", partition, 30)

    simulate(main, seed)
    return trace


def test_the_same_seed_is_the_same_run() -> None:
    traces = [trace_of(seed) for seed in range(12)]
    assert traces == [trace_of(seed) for seed in range(12)]
    assert len({str(trace) for trace in traces}) == 12
    for trace in traces:
        assert {(p, o) for _, p, o in trace} == {(p, o) for p in range(2) for o in range(30)}


def test_a_deadlock_and_a_loop_that_spins_are_found() -> None:
    async def spin() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    with pytest.raises(trio.TooSlowError):
        simulate(trio.sleep_forever, 1, horizon=10)
    with pytest.raises(OutOfSteps, match=r"more than 1000 steps$"):
        simulate(spin, 1, steps=1000)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_spins_in_spite_of_its_cancellation_is_found() -> None:
    async def spin() -> None:
        with trio.CancelScope(shield=True):
            while True:
                await trio.lowlevel.checkpoint()

    with pytest.raises(OutOfSteps, match="as many again after all was cancelled"):
        simulate(spin, 1, steps=1000)
    gc.collect()  # trio's tasks were left where they were, and complain of it


def test_what_the_program_returns_and_raises_comes_out() -> None:
    async def answer() -> int:
        await trio.sleep(3600)
        return 42

    async def fail() -> None:
        raise LookupError("mine")

    assert simulate(answer, 1, horizon=4000) == 42
    with pytest.raises(LookupError, match="mine"):
        simulate(fail, 1)
