"""What surrounds a run: its checkpoint folder is its own, and a request to end it is answered with what is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from mrl.config import Config
from mrl.errors import CheckpointError
from mrl.locking import alone_in
from mrl.processes import Processes
from mrl.stopping import Stopped
from mrl.training.run_folder import make_folder


@contextmanager
def alone_with_checkpoints(config: Config, processes: Processes) -> Iterator[None]:
    """The run has its checkpoint folder for itself: a job that was queued again may meet the one before."""
    folder = config.checkpoints.directory
    busy = f"{folder}: another run is writing its checkpoints here; wait for it, or name another checkpoints.directory"
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
