"""What surrounds a run: its folders are its own, and a request to end it is answered with what is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mrl.errors import CheckpointError
from mrl.locking import alone_in
from mrl.processes import Processes
from mrl.stopping import Stopped
from mrl.training.run_folder import make_folder


@contextmanager
def alone_with(key: str, folder: Path, processes: Processes) -> Iterator[None]:
    """The run has ``folder``, which the configuration names under ``key``, for itself.

    A job that was queued again may meet the one before. Raises CheckpointError where another run has it.
    """
    busy = f"{folder}: another run is writing here; wait for it, or name another {key}"
    with ExitStack() as stack:

        def lock() -> None:
            with suppress(OSError):  # which is said with everything else that is wrong
                make_folder(folder)
                stack.enter_context(alone_in(folder, CheckpointError(busy)))

        processes.from_first(lock)
        yield


@contextmanager
def naming_saved(saved: Callable[[], str | None], resume: str | None) -> Iterator[None]:
    """A stop within the block says what is ``saved`` by then, and that ``resume`` goes on from it."""
    try:
        yield
    except Stopped as stop:
        if stop.saved is None and resume is not None and (words := saved()) is not None:
            stop.saved, stop.resume = words, resume
        raise
