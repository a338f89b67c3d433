"""The audio files of trial lists, looked into before a run begins: all that cannot be read, at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mrl.audio import num_samples
from mrl.data.trials import TrialList
from mrl.errors import AudioError, DataError
from mrl.read_ahead import map_ahead

_NAMED_AT_MOST = 5
_THREADS = 16  # they wait for a network file system
_DECODED_WHOLE = ".mp3"  # its header does not tell its length


def check_audio_readable(lists: Iterable[TrialList]) -> None:
    """Open the header of each audio file of ``lists``.

    Finds files that are missing, empty, cut short, or of another kind than they are called; damage within the
    samples shows when they are read. MP3, which would have to be decoded whole, is not opened. Of a packed corpus
    the table is looked into.

    Raises DataError that counts what cannot be read and names the first five, with the reason for each.
    """
    paths = dict.fromkeys(trials.root / utterance for trials in lists for utterance in trials.utterances)
    looked_into = [path for path in paths if path.suffix.lower() != _DECODED_WHOLE]
    problems = [problem for problem in map_ahead(_problem_of, looked_into, _THREADS) if problem]
    if problems:
        more = f"\n  and {len(problems) - _NAMED_AT_MOST} more" if len(problems) > _NAMED_AT_MOST else ""
        raise DataError(
            f"{len(problems)} of {len(looked_into)} audio files of the validation lists cannot be read; mend "
            "them, for no trial is left out:\n  " + "\n  ".join(problems[:_NAMED_AT_MOST]) + more
        )


def _problem_of(path: Path) -> str | None:
    try:
        num_samples(path)
    except AudioError as error:
        return str(error)
    return None
