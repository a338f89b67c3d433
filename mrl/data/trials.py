"""Trial lists: read, checked and written as text, one ``label enrolment test`` a line.

The label is 1 or ``target``, 0 or ``nontarget``; the other two are audio paths below one folder. Columns are
parted by blanks, or by tabs where a path holds a blank.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mrl.atomic import write_atomically
from mrl.audio import is_there
from mrl.data.trial_list import Trial, TrialList
from mrl.data.trial_making import generate_trials
from mrl.errors import DataError

__all__ = ["Trial", "TrialList", "check_audio_exists", "generate_trials", "read_trials", "write_trials"]

_LABELS = {b"1": True, b"target": True, b"0": False, b"nontarget": False}
_LINE_BYTES = 64 * 1024
_NAMED_AT_MOST = 5
_CHECK_THREADS = 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_trials(path: Path | str, root: Path | str, name: str | None = None) -> TrialList:
    """The list at ``path``, whose audio paths start from ``root``; its name is the file's unless given.

    Raises:
        DataError: the file cannot be read; a line is not as above, is longer than 64 KiB, or its path leaves
            ``root`` (up to five are named, with the line's number); there is no trial, or none of one class.
    """
    path = Path(path)
    problems = _Problems(path)
    try:
        with path.open("rb") as file:
            trials = TrialList.from_trials(name or path.stem, Path(root), _parsed(file, problems))
    except OSError as error:
        raise DataError(f"{path}: this trial list cannot be read: {error.strerror}") from error
    problems.raise_any()
    _require_both_classes(trials, str(path))
    return trials


def write_trials(trials: TrialList, path: Path | str) -> None:
    """Write ``trials`` so that :func:`read_trials` gives the same list; the file appears whole or not at all.

    Raises DataError where a path cannot stand in a text list, or the file cannot be written.
    """
    path = Path(path)
    for utterance in trials.utterances:
        if utterance != utterance.strip() or any(character in utterance for character in "\t\n\r"):
            raise DataError(f"{trials.root}: {utterance!r} cannot stand in a trial list; rename the file")
    try:
        text = "".join(_line(trial) for trial in trials.trials()).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{trials.root}: {error.object!r} cannot stand in a trial list: it is not UTF-8; rename the file"
        ) from error
    try:
        write_atomically(path, lambda temporary: _write(temporary, text))
    except OSError as error:
        raise DataError(f"{path}: this trial list cannot be written: {error.strerror}") from error


def check_audio_exists(trials: TrialList) -> None:
    """Raise one DataError that counts the audio files of ``trials`` that are missing and names the first."""
    with ThreadPoolExecutor(_CHECK_THREADS) as pool:
        there = pool.map(lambda utterance: is_there(trials.root / utterance), trials.utterances)
        missing = [utterance for utterance, found in zip(trials.utterances, there, strict=True) if not found]
    if missing:
        named = ", ".join(missing[:_NAMED_AT_MOST]) + (", ..." if len(missing) > _NAMED_AT_MOST else "")
        raise DataError(
            f"trial list {trials.name}: {len(missing)} of {len(trials.utterances)} audio files are missing "
            f"below {trials.root}: {named}; mend the root or complete the audio, for no trial is left out"
        )


class _Problems:
    """Bad lines: the first few in words, the others counted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._named: list[str] = []
        self._count = 0

    def add(self, number: int, problem: str) -> None:
        self._count += 1
        if len(self._named) < _NAMED_AT_MOST:
            self._named.append(f"  line {number}: {problem}")

    def raise_any(self) -> None:
        if not self._count:
            return
        more = [f"  and {self._count - len(self._named)} more"] if self._count > len(self._named) else []
        title = f"{self._path}: {self._count} bad line{'s' if self._count > 1 else ''} in this trial list"
        raise DataError("\n".join([title, *self._named, *more]))


def _parsed(file: BinaryIO, problems: _Problems) -> Iterator[Trial]:
    paths: dict[bytes, str] = {}  # a list names each utterance many times: it is checked once
    number = 0
    while line := file.readline(_LINE_BYTES + 1):
        number += 1
        if len(line) > _LINE_BYTES:
            problems.add(number, f"longer than {_LINE_BYTES} bytes; the rest was not read")
            return
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line.strip():
            continue
        try:
            yield _trial(line, paths)
        except ValueError as error:
            problems.add(number, str(error))


def _trial(line: bytes, paths: dict[bytes, str]) -> Trial:
    """The trial on ``line``; ValueError says what is wrong with it. Only ASCII blanks part columns."""
    parted_by_tabs = line.count(b"\t") == 2
    columns = [column.strip() for column in line.split(b"\t")] if parted_by_tabs else line.split()
    if len(columns) != 3:
        raise ValueError(f"{len(columns)} columns instead of the 3 of `label enrolment test`: {_shown(line)}")
    label, enrolment, test = columns
    if label not in _LABELS:
        raise ValueError(f"the label is {_shown(label)} instead of 1, 0, target or nontarget")
    for column in (enrolment, test):
        if column not in paths:
            paths[column] = _audio_path(column)
    return Trial(_LABELS[label], paths[enrolment], paths[test])


def _audio_path(column: bytes) -> str:
    try:
        text = column.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"not UTF-8: {_shown(column)}") from None
    path = PurePosixPath(text)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in text:
        raise ValueError(f"{_shown(column)} is not a path below the list's root")
    return str(path)


def _shown(raw: bytes) -> str:
    text = raw.strip().decode("utf-8", "replace")
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _require_both_classes(trials: TrialList, source: str) -> None:
    if not len(trials):
        raise DataError(f"{source}: this trial list is empty")
    if trials.num_targets in (0, len(trials)):
        found = "target" if trials.num_targets else "nontarget"
        raise DataError(
            f"{source}: all {len(trials)} trials are {found} trials; an error rate needs both kinds"
        )


def _line(trial: Trial) -> str:
    blank = any(character.isspace() for character in trial.enrolment + trial.test)
    return ("\t" if blank else " ").join([str(int(trial.is_target)), trial.enrolment, trial.test]) + "\n"


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
