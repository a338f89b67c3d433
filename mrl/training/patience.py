"""Work of others that may hang, given a limit of time.

Python cannot end a thread: one that hangs is left to itself, and keeps neither the run nor its end waiting.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_MOST_WAITING = 1000  # actions; some hours of records


def within(seconds: float, action: Callable[[], T]) -> T:
    """What ``action`` gives or raises; TimeoutError where it takes longer than ``seconds``."""
    outcome: list[tuple[T | None, BaseException | None]] = []

    def act() -> None:
        try:
            outcome.append((action(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


class InTurn:
    """Carries out actions one after the other in a thread of its own, so that none of them holds up the run."""

    def __init__(self) -> None:
        self._actions: queue.Queue[Callable[[], Any] | None] = queue.Queue(_MOST_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def do(self, action: Callable[[], Any]) -> None:
        """Carry out ``action`` soon. Raises what an earlier one raised, and TimeoutError where too many wait."""
        if self._error is not None:
            raise self._error
        try:
            self._actions.put_nowait(action)
        except queue.Full:
            raise TimeoutError(f"{_MOST_WAITING} records wait, it does not take them") from None

    def finish(self, seconds: float) -> None:
        """Wait for what is left. Raises what an action raised; TimeoutError where it takes longer than ``seconds``."""
        self.do(lambda: None)
        self._actions.put(None, timeout=seconds)
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError(f"no answer within {seconds:g} s")
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (action := self._actions.get()) is not None:
            try:
                action()
            except BaseException as error:
                self._error = error
                return
