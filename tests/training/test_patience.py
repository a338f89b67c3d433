from __future__ import annotations

import threading
import time

import pytest

from mrl.training import patience
from mrl.training.patience import InTurn, within


def test_a_quick_action_gives_its_result_or_its_error() -> None:
    assert within(5.0, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5.0, lambda: 1 // 0)


def test_an_action_that_hangs_is_left_to_itself() -> None:
    never = threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
        within(0.1, never.wait)
    assert time.monotonic() - started < 20.0
    never.set()


def test_actions_happen_in_their_order_and_before_the_end() -> None:
    done: list[int] = []
    turn = InTurn()
    for number in range(20):
        turn.do(lambda number=number: done.append(number))  # type: ignore[misc]
    turn.finish(5.0)
    assert done == list(range(20))


def test_an_error_is_raised_at_a_later_action_or_at_the_end() -> None:
    turn = InTurn()
    turn.do(lambda: 1 // 0)
    while turn._thread.is_alive():
        time.sleep(0.001)
    with pytest.raises(ZeroDivisionError):
        turn.do(time.monotonic)
    with pytest.raises(ZeroDivisionError):
        turn.finish(5.0)
    last = InTurn()
    last.do(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        last.finish(5.0)


def test_nobody_waits_for_an_action_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_MOST_WAITING", 3)
    never = threading.Event()
    turn = InTurn()
    started = time.monotonic()
    turn.do(never.wait)
    while turn._actions.qsize():
        time.sleep(0.001)
    for _ in range(3):
        turn.do(never.wait)
    with pytest.raises(TimeoutError, match="3 records wait"):
        turn.do(never.wait)
    slow = InTurn()
    slow.do(never.wait)
    with pytest.raises(TimeoutError, match="no answer within"):
        slow.finish(0.1)
    assert time.monotonic() - started < 20.0
    never.set()
