"""Small inputs that claim a great deal are refused: quickly, in words, and within a gigabyte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mrl.data.trials import read_trials
from mrl.errors import CheckpointError, DataError
from mrl.models.tensor_file import read_tensor_file
from mrl.stored_zip import require_sound
from tests.fuzz.bombs import BOMBS

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 10.0  # of the process's own time; making some of the bombs takes a few
MOST_BYTES = 300_000_000


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of each bomb, read in a process whose memory is limited."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/fuzz/bombs.py"), str(tmp_path_factory.mktemp("bombs"))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (
        f"it ended after {[report['name'] for report in found][-1:]}: {done.stderr[-2000:]}"
    )
    return {report["name"]: report for report in found}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_little_memory(reports: dict[str, dict[str, Any]], name: str) -> None:
    report, words = reports[name], BOMBS[name][1]
    assert words in report["message"]
    assert len(report["message"]) < 2000
    assert report["rise"] < MOST_BYTES
    assert report["seconds"] < MOST_SECONDS


@pytest.mark.slow
def test_a_hundred_million_blank_lines_are_only_slow(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    with path.open("wb") as file:
        for _ in range(100):
            file.write(b"\n" * 1_000_000)
    with pytest.raises(DataError, match="is empty"):
        read_trials(path, tmp_path)


def test_a_flipped_bit_that_torch_would_load_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    weights = torch.arange(1000.0)
    torch.save({"weights": weights}, path)
    content = bytearray(path.read_bytes())
    content[content.index(weights.numpy().tobytes()) + 200] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["weights"], weights)  # silently another number
    with pytest.raises(
        CheckpointError, match=r"best\.pt: not a readable checkpoint.*Bad CRC-32 for file 'best/data/0'"
    ):
        read_tensor_file(path)


def test_a_byte_anywhere_in_a_checkpoint_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    torch.save({"weights": torch.arange(40.0), "dims": [8, 32]}, path)
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        try:
            content = read_tensor_file(path)
        except CheckpointError:
            continue
        # Dates, padding and the like, of which nothing depends.
        assert torch.equal(content["weights"], torch.arange(40.0))
        assert content["dims"] == [8, 32]


def test_what_torch_saves_is_read_back_whatever_shares_storages(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    layer = torch.nn.BatchNorm1d(3)
    content = {
        "views": [base[2:5], base.view(3, 4).T, base[:0]],
        "state": layer.state_dict(),  # with the versions of its modules beside it
        "again": [layer.weight] * 20,
        "plain": [1, 2.5, None, True, "name", (1, "a"), {3: {"x"}}, torch.float32, torch.Size([2])],
    }
    torch.save(content, tmp_path / "x.pt")
    read = read_tensor_file(tmp_path / "x.pt")
    assert torch.equal(read["views"][1], content["views"][1])
    assert read["plain"] == content["plain"]
    assert read["again"][0] is read["again"][19]


@pytest.mark.parametrize("cut", [0, 1, 30, 200, -1, -22])
def test_an_archive_that_is_cut_short_is_no_archive(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.pt"
    torch.save([torch.zeros(3)], path)
    assert require_sound(path) == path.stat().st_size
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="it is no archive"):
        require_sound(path)
