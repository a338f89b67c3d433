from __future__ import annotations

import os
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


def test_content_is_flushed_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    """What a power cut leaves is the old file or the new one, also of the folder's entry."""
    events = []
    sync, replace = os.fsync, Path.replace

    def noted_sync(descriptor):
        events.append(("flush", os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def noted_replace(source, target):
        events.append(("rename", str(source)))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_atomically(tmp_path / "x", lambda path: path.write_text("new"))
    (first, written), (second, renamed), (third, folder) = events
    assert (first, second, third) == ("flush", "rename", "flush")
    assert written == renamed
    assert folder == str(tmp_path)
