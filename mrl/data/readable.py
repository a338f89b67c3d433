"""The audio files of trial lists, looked into before a run begins: all that cannot be read, at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from mrl.audio import num_samples, printable, require_sound, require_whole
from mrl.data.trials import TrialList
from mrl.errors import AudioError, DataError
from mrl.models.encoder_input import naming
from mrl.read_ahead import map_ahead

_NAMED_AT_MOST = 5
_THREADS = 16  # they wait for a network file system
_DECODED_WHOLE = ".mp3"  # its header does not tell its length
_READ_AT_MOST = 5_000  # files, which takes seconds; VoxCeleb1-O has 4,708


RequireSamples = Callable[[int], None]
"""Raises ValueError for so many samples where a model needs more; `Trunk.require_samples`."""


def check_audio_readable(lists: Iterable[TrialList], require_samples: RequireSamples | None = None) -> None:
    """Read the audio files of ``lists``: whole where they are few, the header and the end of each of many.

    The latter finds files that are missing, empty, cut short, or of another kind than they are called; silence, NaN and
    damage within them show in the former alone. MP3, which is slow to decode, is not opened.
    ``require_samples`` is asked about the length of each, if it is given.

    Raises DataError that counts what cannot be read or is too short, and names the first five, with the reason for
    each.
    """
    paths = dict.fromkeys(trials.root / utterance for trials in lists for utterance in trials.utterances)
    looked_into = [path for path in paths if path.suffix.lower() != _DECODED_WHOLE]
    look = require_sound if len(looked_into) <= _READ_AT_MOST else require_whole
    problem_of = partial(_problem, look, require_samples)
    problems = [problem for problem in map_ahead(problem_of, looked_into, _THREADS) if problem]
    if problems:
        more = f"\n  and {len(problems) - _NAMED_AT_MOST} more" if len(problems) > _NAMED_AT_MOST else ""
        raise DataError(
            f"{len(problems)} of {len(looked_into)} audio files of the validation lists cannot be used; mend "
            "them, for no trial is left out:\n  " + "\n  ".join(problems[:_NAMED_AT_MOST]) + more
        )


def _problem(look: Callable[[Path], None], require_samples: RequireSamples | None, path: Path) -> str | None:
    """What ``look`` finds wrong with the file, or ``require_samples`` with its length."""
    try:
        look(path)
        if require_samples is not None:
            with naming(printable(path)):
                require_samples(num_samples(path))
    except AudioError as error:
        return str(error)
    return None
