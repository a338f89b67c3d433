from __future__ import annotations

from pathlib import Path

import pytest

from mrl.atomic import write_atomically


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.txt"
    write_atomically(path, lambda temporary: temporary.write_text("one"))
    write_atomically(path, lambda temporary: temporary.write_text("two"))
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_failure_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, write_half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
