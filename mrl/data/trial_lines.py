"""The lines of a trial list: which column holds the label, and what is wrong with a line.

Two orders are read: ``label enrolment test`` (VoxCeleb) and ``enrolment test label`` (Kaldi, CN-Celeb). The first
line that can only be one of the two decides for the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from mrl.data.trial_list import Trial
from mrl.errors import DataError

LABELS = {
    **dict.fromkeys((b"1", b"target", b"tgt"), True),
    **dict.fromkeys((b"0", b"nontarget", b"imp"), False),
}
_LABELS_NAMED = "1, 0, target or nontarget"
_LINE_BYTES = 64 * 1024
_MOST_LINES = 2_000_000_000  # their numbers are kept in 32 bits
_MOST_UNDECIDED = 100_000
_LONGEST_PATH, _LONGEST_PART = 4096, 255  # bytes, as Linux has it
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NAMED_AT_MOST = 5
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Problems:
    """Bad lines: the first few in words, the others counted."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self._kind = kind
        self._named: list[str] = []
        self._count = 0

    def add(self, number: int, problem: str) -> None:
        self._count += 1
        if len(self._named) < _NAMED_AT_MOST:
            self._named.append(f"  line {number}: {problem}")

    def raise_any(self) -> None:
        """Raise one DataError for all problems so far."""
        if not self._count:
            return
        more = [f"  and {self._count - len(self._named)} more"] if self._count > len(self._named) else []
        title = f"{self.path}: {self._count} bad line{'s' if self._count > 1 else ''} in this {self._kind}"
        raise DataError("\n".join([title, *self._named, *more]))


def numbered_lines(
    file: BinaryIO, problems: Problems, most_bytes: int = _LINE_BYTES
) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1, without a byte order mark.

    A longer line than ``most_bytes`` is a problem, and nothing is read after it; so is UTF-16.
    """
    number = 0
    while line := file.readline(most_bytes + 1):
        number += 1
        if len(line) > most_bytes:
            problems.add(number, f"longer than {most_bytes} bytes; the rest was not read")
            return
        if number > _MOST_LINES:
            problems.add(number, "the rest of so long a list was not read")
            return
        if number == 1:
            if line.startswith(_WIDE_MARKS):
                problems.add(number, "UTF-16; save the file as UTF-8")
                return
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line.strip():
            yield number, line


class _Order(NamedTuple):
    label: int  # the label's column
    decided: int  # on this line


def trials_in(file: BinaryIO, problems: Problems, *, of_models: bool) -> Iterator[tuple[int, Trial]]:
    """The trials of a list with the numbers of their lines; lines that are none are added to ``problems``.

    Enrolments are paths below a root, or with ``of_models`` names, taken as they are.
    """
    paths: dict[bytes, str] = {}  # a list names each utterance many times: it is checked once
    names: dict[bytes, str] | None = {} if of_models else None
    order: _Order | None = None
    undecided: list[tuple[int, list[bytes]]] = []
    for number, line in numbered_lines(file, problems):
        try:
            columns = _columns(line)
            if order is None and (order := _order(number, columns)) is None:
                undecided.append((number, columns))
                if len(undecided) == _MOST_UNDECIDED:
                    break
                continue
        except ValueError as error:
            problems.add(number, str(error))
            continue
        for earlier in undecided:
            yield from _trial(*earlier, order, paths, names, problems)
        undecided.clear()
        yield from _trial(number, columns, order, paths, names, problems)
    if undecided:
        problems.add(
            undecided[0][0],
            "the first and the third column are both labels, here and on all other lines, so it cannot be told "
            "which is meant; give the files or models other names"
            + ("; the rest was not read" if len(undecided) == _MOST_UNDECIDED else ""),
        )


def audio_path(column: bytes) -> str:
    """A path below the list's root; ValueError says what is wrong with it."""
    if len(column) > _LONGEST_PATH or any(len(part) > _LONGEST_PART for part in column.split(b"/")):
        raise ValueError(f"{shown(column)} is longer than the name of a file can be")
    path = PurePosixPath("" if b"\0" in column else _text(column))
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{shown(column)} is not a path below the list's root")
    return str(path)


def model_name(column: bytes) -> str:
    """The name of an enrolment model; ValueError says what is wrong with it."""
    if len(column) > _LONGEST_PART:
        raise ValueError(f"model {shown(column)} has a name of more than {_LONGEST_PART} bytes")
    return _text(column)


def shown(raw: bytes) -> str:
    """``raw`` in a message."""
    text = raw[:_LONGEST_PATH].strip().decode("utf-8", "replace")
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _text(column: bytes) -> str:
    try:
        text = column.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"not UTF-8: {shown(column)}") from None
    if _CONTROL.search(text):
        raise ValueError(f"{shown(column)} holds a control character")
    return text


def _columns(line: bytes) -> list[bytes]:
    """Only ASCII blanks part columns, and two tabs part columns that hold blanks."""
    parted_by_tabs = line.count(b"\t") == 2
    columns = [column.strip() for column in line.split(b"\t")] if parted_by_tabs else line.split()
    if len(columns) != 3:
        raise ValueError(
            f"{len(columns)} columns instead of the 3 of `label enrolment test` or `enrolment test label`: "
            f"{shown(line)}"
        )
    return columns


def _order(number: int, columns: list[bytes]) -> _Order | None:
    """Where the label stands; None where both ends could be one, ValueError where neither can."""
    first, last = columns[0] in LABELS, columns[2] in LABELS
    if first and last:
        return None
    if not first and not last:
        raise ValueError(
            f"the label is {shown(columns[0])} or {shown(columns[2])} instead of {_LABELS_NAMED}, in the first or "
            "the third column"
        )
    return _Order(0 if first else 2, number)


def _trial(
    number: int,
    columns: list[bytes],
    order: _Order,
    paths: dict[bytes, str],
    names: dict[bytes, str] | None,
    problems: Problems,
) -> Iterator[tuple[int, Trial]]:
    """The trial, or nothing and one more problem."""
    label = columns[order.label]
    enrolment, test = columns[1:] if order.label == 0 else columns[:2]
    try:
        if label not in LABELS:
            which = "first" if order.label == 0 else "third"
            raise ValueError(
                f"the label is {shown(label)} instead of {_LABELS_NAMED}, in the {which} column as on line "
                f"{order.decided}"
            )
        if test not in paths:
            paths[test] = audio_path(test)
        known = paths if names is None else names
        if enrolment not in known:
            known[enrolment] = audio_path(enrolment) if names is None else model_name(enrolment)
    except ValueError as error:
        problems.add(number, str(error))
    else:
        yield number, Trial(LABELS[label], known[enrolment], paths[test])
