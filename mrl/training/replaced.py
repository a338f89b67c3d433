"""The account of training utterances that could not be read, and were replaced: of the warm start and of updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mrl.config import Config
from mrl.data.unreadable import path_of
from mrl.errors import PeerError, TrainingError
from mrl.processes import Processes
from mrl.training.run_state import RunState


def count_replaced(
    messages: Sequence[str],
    state: RunState,
    config: Config,
    num_utterances: int,
    say: Callable[[str], None],
    processes: Processes,
) -> None:
    """Enter each file that had to be replaced into ``state``, and name it, once.

    Args:
        messages: of all processes, ``<path>: <reason>``; all of them call this alike.
        num_utterances: of the corpus, whatever part of it was read.

    Raises TrainingError where more than ``data.max_unreadable_share`` of the corpus could not be read by now, and
    PeerError for it in all processes but the first.
    """
    for message in messages:
        path = path_of(message)  # the reason may differ from crop to crop
        if path not in state.unreadable:
            state.unreadable[path] = message
            say(f"replaced: {message}")
    allowed = config.data.max_unreadable_share
    if len(state.unreadable) > allowed * num_utterances:
        last = list(state.unreadable.values())[-1]
        if not processes.is_first:
            raise PeerError("too many utterances could not be read")
        raise TrainingError(
            f"{len(state.unreadable)} of {num_utterances} training utterances could not be read, more than "
            f"data.max_unreadable_share ({allowed:g}) allows; the last one: {last}"
        )
