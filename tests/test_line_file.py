"""A file of lines: at once, whole, or an error."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mrl.line_file import LineFile, reason


def test_a_line_is_in_the_file_before_the_close_and_after_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("old\n")
    file = LineFile(path)
    file.write("new é")
    assert path.read_text(encoding="utf-8") == "old\nnew é\n"
    file.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here to play a full disk")
def test_a_full_disk_is_an_error_at_the_write_and_not_at_the_close() -> None:
    file = LineFile(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left"):
        file.write("line")
    file.close()


def test_a_partly_written_line_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines")
    file.write("first")
    whole = file._file._file
    short = SimpleNamespace(write=lambda data: whole.write(data[:-1]), fileno=whole.fileno)
    file._file._file = short  # type: ignore[assignment]
    with pytest.raises(OSError, match="only 6 of 7 bytes"):
        file.write("second")
    file._file._file = whole
    file.write("third")
    assert (tmp_path / "lines").read_text() == "first\nthird\n"


def test_reason_is_one_line() -> None:
    assert reason(ValueError("first\nsecond")) == "first"
    assert reason(ValueError()) == "ValueError"
