"""Checkpoints are written whole or not at all, kept as configured, and read as data."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from mrl.config import CheckpointConfig
from mrl.errors import CheckpointError
from mrl.models.checkpoint_format import FORMAT, VERSION, read_checkpoint
from mrl.training import checkpoint
from mrl.training.checkpoint import CheckpointFolder, write_atomically


def content(value: float) -> dict:
    return {
        "format": FORMAT, "version": VERSION, "config": {}, "model_config": {}, "dims": [4],
        "encoder": {"weight": torch.full((3,), value)}, "lists": {},
    }  # fmt: skip


def value(path) -> float:
    return read_checkpoint(path)["encoder"]["weight"][0].item()


def test_best_stays_while_last_moves_on(tmp_path):
    folder = CheckpointFolder(CheckpointConfig(directory=tmp_path / "new", every_epochs=2, keep_last=2))
    for epoch in range(8):
        folder.save(content(epoch), epoch=epoch, is_best=epoch in (0, 3))
    assert value(folder.best) == 3
    assert value(folder.last) == 7
    kept = sorted(path.name for path in folder.directory.iterdir())
    assert kept == ["best.pt", "epoch_004.pt", "epoch_006.pt", "last.pt", "previous.pt"]
    assert value(folder.directory / "epoch_004.pt") == 4


def test_the_oldest_by_number_goes_first(tmp_path):
    folder = CheckpointFolder(CheckpointConfig(directory=tmp_path, every_epochs=1, keep_last=2))
    (tmp_path / "epoch_mine.pt").write_bytes(b"kept by hand")
    for epoch in (998, 999, 1000, 1001):
        folder.save(content(epoch), epoch=epoch, is_best=False)
    kept = sorted(path.name for path in tmp_path.glob("epoch_*.pt"))
    assert kept == ["epoch_1000.pt", "epoch_1001.pt", "epoch_mine.pt"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    folder = CheckpointFolder(CheckpointConfig(directory=tmp_path))
    folder.save(content(1), epoch=1, is_best=True)

    def full_disk(state, path):
        path.write_bytes(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full_disk)
    with pytest.raises(CheckpointError, match=r"No space left.*intact"):
        folder.save(content(2), epoch=2, is_best=True)
    assert value(folder.last) == value(folder.best) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_hard_links_fall_back_to_copies(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no hard links on this file system")

    monkeypatch.setattr(os, "link", refuse)
    folder = CheckpointFolder(CheckpointConfig(directory=tmp_path))
    folder.save(content(5), epoch=1, is_best=True)
    assert value(folder.best) == 5


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupted(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x", interrupted)
    assert list(tmp_path.iterdir()) == []


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "not a readable checkpoint"),
        (lambda path: path.write_text("<html>404</html>"), "a web page, not a checkpoint"),
        (lambda path: path.write_bytes(pickle.dumps(Bomb())), "not a checkpoint of plain tensors"),
        (
            lambda path: torch.save({"model_config": {}, "state_dict": {}}, path),
            "belongs in model.pretrained",
        ),
        (
            lambda path: torch.save({**content(1), "version": 99}, path),
            "format version 99, this version reads 3 and 2",
        ),
        (lambda path: torch.save({"format": FORMAT, "version": VERSION}, path), "lacks config, model_config"),
        (lambda path: torch.save([1], path), "not a checkpoint of this project"),
    ],
)
def test_other_files_are_refused_and_never_run(tmp_path, monkeypatch, make, expected):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pt"
    make(path)
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(content(1), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        read_checkpoint(path)
