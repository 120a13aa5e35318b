"""The order of bytes: pushes before bulk, small pushes before huge ones, and nobody held for longer than it helps."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from replicator.registry import flow as module
from replicator.registry.addresses import open_socket
from replicator.registry.flow import FLOOR_BYTES, FLOOR_SECONDS, Flow, Line

KIB, MIB = 2**10, 2**20


class Clock:
    """The time of the module's flows."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    return clock


def move(flow: Flow, most: int, clock: Clock, seconds: float = 0.0) -> int:
    """Move up to ``most`` bytes as far as they may go now, over ``seconds``; return their number."""
    moved = 0
    while moved < most and flow.delay(size := flow.piece(most - moved)) == 0:
        clock.now += seconds * size / most
        flow.sent(size)
        moved += size
    return moved


class Bodies:
    """Bodies between two hosts, by name."""

    def __init__(self, stack: ExitStack) -> None:
        self.source, self.destination = Line(), Line()
        self._stack = stack

    def begin(self, size: int, *, bulk: bool = False, source: Line | None = None, to: Line | None = None) -> Flow:
        return self._stack.enter_context(Flow(source or self.source, to or self.destination, size, bulk=bulk))


@pytest.fixture
def bodies() -> Bodies:
    return Bodies(ExitStack())


def test_bulk_alone_has_everything(bodies: Bodies, clock: Clock) -> None:
    one, other = bodies.begin(8 * MIB, bulk=True), bodies.begin(8 * MIB, bulk=True)
    assert move(one, 8 * MIB, clock) == move(other, 8 * MIB, clock) == 8 * MIB


@pytest.mark.parametrize("shared", ["source", "destination", "both"])
def test_bulk_leaves_four_fifths_of_a_line_to_a_push(bodies: Bodies, clock: Clock, shared: str) -> None:
    push = bodies.begin(20 * MIB)
    source = Line() if shared == "destination" else None
    to = Line() if shared == "source" else None
    bulk = [bodies.begin(100 * MIB, bulk=True, source=source, to=to) for _ in range(8)]
    moved = 0
    for _ in range(80):
        # Half a second in all: it is too short to find out whether the push could use less.
        assert move(push, 256 * KIB, clock, 0.005) == 256 * KIB
        moved += sum(move(flow, MIB, clock) for flow in bulk)
    assert 20 * MIB / 10 < moved < 20 * MIB / 4


def test_bulk_on_other_lines_is_not_held(bodies: Bodies, clock: Clock) -> None:
    bodies.begin(20 * MIB)
    assert move(bodies.begin(MIB, bulk=True, source=Line(), to=Line()), MIB, clock) == MIB


def test_bulk_has_everything_again_when_the_push_has_ended(clock: Clock) -> None:
    lines = Line(), Line()
    with Flow(*lines, MIB, bulk=True) as bulk:
        with Flow(*lines, MIB, bulk=False):
            assert move(bulk, MIB, clock) == 0
            assert bulk.held
            assert lines[1].held(bulk=True) == 1
            assert lines[1].held(bulk=False) == 0
        assert move(bulk, MIB, clock) == MIB
        assert not bulk.held


def test_a_held_body_still_moves_64_kib_in_ten_seconds(bodies: Bodies, clock: Clock) -> None:
    bulk = bodies.begin(100 * MIB, bulk=True)
    push = bodies.begin(100 * MIB)
    moved = 0
    for _ in range(int(FLOOR_SECONDS * 10)):
        # It trickles: its own bytes are worth nearly nothing to bulk.
        move(push, 100, clock)
        clock.now += 0.1
        moved += move(bulk, MIB, clock)
    assert FLOOR_BYTES * 3 // 4 <= moved <= FLOOR_BYTES * 2


def test_a_push_that_stands_still_holds_nobody(bodies: Bodies, clock: Clock) -> None:
    push, bulk = bodies.begin(100 * MIB), bodies.begin(8 * MIB, bulk=True)
    assert move(push, MIB, clock) == MIB
    clock.now += 3
    assert move(bulk, MIB, clock) == MIB
    move(push, 64 * KIB, clock)
    assert move(bulk, MIB, clock) < MIB


def test_a_huge_push_leaves_the_line_to_a_small_one(bodies: Bodies, clock: Clock) -> None:
    huge, small = bodies.begin(2**33), bodies.begin(128 * KIB)
    assert move(huge, MIB, clock) == 0
    assert move(small, 128 * KIB, clock) == 128 * KIB
    assert 0 < move(huge, MIB, clock) < 128 * KIB / 4


def pace_of_bulk(bodies: Bodies, clock: Clock, *, line: float, most: float, seconds: float) -> tuple[float, float]:
    """Move a push and bulk over one line; return the bytes a second of both in the last ten.

    Args:
        line: bytes a second that the line takes in all.
        most: bytes a second that the push can use.
        seconds: how long it takes in all.
    """
    push, bulk = bodies.begin(2**40), [bodies.begin(2**40, bulk=True) for _ in range(4)]
    end, totals = clock.now + seconds, [0, 0]
    step = 0.1
    while clock.now < end:
        if clock.now < end - 10:
            totals = [0, 0]
        gone = sum(move(flow, int(line * step / 4), clock) for flow in bulk)
        # What bulk puts on the line is no longer there for the push.
        moved = move(push, int(min(most * step, line * step - gone)), clock)
        clock.now += step
        totals = [totals[0] + moved, totals[1] + gone]
    return totals[0] / 10, totals[1] / 10


def test_bulk_uses_what_a_push_cannot(bodies: Bodies, clock: Clock) -> None:
    push, bulk = pace_of_bulk(bodies, clock, line=8 * MIB, most=0.5 * MIB, seconds=40)
    assert push > 0.45 * MIB
    assert bulk > 3 * MIB


def test_a_push_that_can_use_the_line_keeps_it(bodies: Bodies, clock: Clock) -> None:
    push, _ = pace_of_bulk(bodies, clock, line=8 * MIB, most=100 * MIB, seconds=100)
    assert push > 0.8 * 8 * MIB


def test_pieces_are_as_large_as_the_line_is_fast(bodies: Bodies, clock: Clock) -> None:
    slow, fast = bodies.begin(100 * MIB), bodies.begin(100 * MIB)
    move(slow, 4 * MIB, clock, seconds=40)
    move(fast, 100 * MIB, clock, seconds=0.1)
    assert slow.piece(MIB) == 16 * KIB
    assert fast.piece(MIB) == MIB


def test_a_body_that_a_push_waits_for_is_held_no_longer(bodies: Bodies, clock: Clock) -> None:
    bulk = bodies.begin(8 * MIB, bulk=True)
    bodies.begin(100 * MIB)
    assert move(bulk, 64 * KIB, clock) == 0
    bulk.promote()
    assert move(bulk, 8 * MIB, clock) == 8 * MIB


async def test_a_task_waits_for_its_turn() -> None:
    line = Line()
    with Flow(line, line, MIB, bulk=True) as bulk:
        with Flow(line, line, MIB, bulk=False):
            turn = asyncio.create_task(bulk.turn(MIB))
            while not bulk.held:
                await asyncio.sleep(0)
            assert not turn.done()
        assert 0 < await turn <= MIB


def test_threads_can_wait_for_their_turns() -> None:
    line = Line()
    order: list[str] = []

    def run(name: str, flow: Flow, size: int) -> None:
        with flow:
            while size and not flow.cancelled:
                if (seconds := flow.delay(piece := flow.piece(size))) > 0:
                    time.sleep(seconds)
                    continue
                flow.sent(piece)
                size -= piece
            order.append(name)

    endless = Flow(line, line, 2**30, bulk=False)
    with Flow(line, line, MIB, bulk=False) as push:
        bulk = [Flow(line, line, MIB, bulk=True) for _ in range(4)]
        threads = [threading.Thread(target=run, args=("bulk", flow, MIB)) for flow in bulk]
        threads.append(threading.Thread(target=run, args=("cancelled", endless, 2**40)))
        endless.cancel()
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 30
        while line.held(bulk=True) < 4 and time.monotonic() < deadline:
            push.sent(1)
            time.sleep(0.001)
        order.append("push")
    for thread in threads:
        thread.join()
    assert order == ["cancelled", "push", *["bulk"] * 4] or order == ["push", "cancelled", *["bulk"] * 4]


def test_bulk_gives_way_to_pushes_of_other_processes(bodies: Bodies, clock: Clock) -> None:
    bulk = bodies.begin(100 * MIB, bulk=True)
    bodies.destination.note_elsewhere(0, goes_on=True)
    assert move(bulk, MIB, clock) == 0
    bodies.destination.note_elsewhere(MIB, goes_on=True)
    assert MIB / 10 < move(bulk, MIB, clock) < MIB / 4
    assert move(bodies.begin(MIB), MIB, clock) == MIB, "pushes of this process are not held"
    clock.now += 5
    assert move(bulk, MIB, clock) == MIB


def test_bulk_has_the_line_again_as_soon_as_the_pushes_of_another_process_end(bodies: Bodies, clock: Clock) -> None:
    bulk = bodies.begin(100 * MIB, bulk=True)
    bodies.destination.note_elsewhere(1, goes_on=True)
    assert move(bulk, MIB, clock) == 0
    bodies.destination.note_elsewhere(1, goes_on=False)
    assert move(bulk, MIB, clock) == MIB


def test_a_line_tells_of_pushes_once_for_each_time_that_they_move(bodies: Bodies, clock: Clock) -> None:
    line, calls = bodies.destination, []
    line.on_push = lambda: calls.append(clock.now)
    move(bodies.begin(MIB, bulk=True), MIB, clock)
    assert line.news() is None
    push = bodies.begin(MIB)
    assert line.news() == (0, True)
    move(push, 100_000, clock)
    assert line.news() == (100_000, True)
    assert len(calls) == 1
    clock.now += 5
    assert line.news() == (0, False), "it stands still"
    assert line.news() is None
    move(push, 5, clock)
    assert len(calls) == 2
    assert line.news() == (5, True)


def test_the_system_takes_little_of_a_body_ahead_of_what_it_can_send() -> None:
    with open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))) as made:
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 128 * KIB
