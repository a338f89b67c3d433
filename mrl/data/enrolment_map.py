"""Which utterances each enrolment model is made of: ``model utterance [utterance ...]`` a line.

CN-Celeb's ``enroll.map`` and ``enroll.lst`` are such files, and so is Kaldi's ``spk2utt`` where the utterances are
named by their paths. A model may have several lines.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mrl.data.trial_lines import Problems, audio_path, model_name, numbered_lines, shown
from mrl.errors import DataError

_LINE_BYTES = 1024 * 1024  # twenty thousand utterances; a model may have several lines


def read_enrolment_map(path: Path, wanted: Collection[str]) -> dict[str, list[str]]:
    """The utterances, as paths below a root, of each model in ``wanted`` that the map holds.

    Other models are checked and left out, for the map of a whole corpus may hold many.

    Raises:
        DataError: the file cannot be read; a line names no utterance, or one a second time for its model, is
            longer than 1 MiB, or a path leaves the root (up to five are named, with the line's number).
    """
    problems = Problems(path, "enrolment map")
    utterances: dict[str, list[str]] = {}
    try:
        with path.open("rb") as file:
            for number, line in numbered_lines(file, problems, _LINE_BYTES):
                try:
                    _read_line(line, wanted, utterances)
                except ValueError as error:
                    problems.add(number, str(error))
    except OSError as error:
        raise DataError(f"{path}: this enrolment map cannot be read: {error.strerror}") from error
    problems.raise_any()
    return utterances


def _read_line(line: bytes, wanted: Collection[str], utterances: dict[str, list[str]]) -> None:
    first, *columns = line.split()
    model = model_name(first)
    if not columns:
        raise ValueError(f"model {shown(first)} has no utterance")
    paths = [audio_path(column) for column in columns]
    known = utterances.setdefault(model, []) if model in wanted else []
    seen = set(known)
    for path in paths:
        if path in seen:
            raise ValueError(f"{path!r} stands twice for model {shown(first)}")
        seen.add(path)
        known.append(path)
