"""Files that lose nothing: the form of ``training.log`` and ``metrics.jsonl``, and of TensorBoard's events."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class WholeWrites:
    """Appends to a file what it is given, handed to the operating system whole and at once.

    Unbuffered: a killed run loses nothing that was written, and a full disk leaves no bytes that a later
    close would try, and fail, to write.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Raises OSError where not all of it could be written; the file is then as it was."""
        written = self._file.write(data)
        if written != len(data):
            with suppress(OSError):  # no file of a disk, a device say
                os.ftruncate(self._file.fileno(), os.fstat(self._file.fileno()).st_size - written)
            raise OSError(f"only {written} of {len(data)} bytes could be written (disk full?)")

    def close(self) -> None:
        self._file.close()


class LineFile:
    """Appends lines to a UTF-8 file, each of them whole."""

    def __init__(self, path: Path) -> None:
        self._file = WholeWrites(path)

    def write(self, line: str) -> None:
        self._file.write((line + "\n").encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        self._file.close()


def printable(text: object) -> str:
    """``text``, with what cannot be printed written as Python writes it."""
    line = str(text)
    return line if line.isprintable() else repr(line)[1:-1]


def reason(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
