"""Runs whose data workers die: the numbers are those of a run whose workers live."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from mrl.data import loader
from mrl.data.loading import CropDataset
from tests.integration.conftest import CONFIG
from tests.integration.test_run import numbers, same_weights

DATA = {"train": "speech/train", "workers": 2, "held_out_share": 0.25}


def dying(folder: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Kill the workers that read utterance 5, so often and no more."""
    read, main = CropDataset.__getitem__, os.getpid()

    def fatal(self, key):
        flags = [folder / f"death_{number}" for number in range(times)]
        if key[1] == 5 and os.getpid() != main and (left := [flag for flag in flags if not flag.exists()]):
            left[0].touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, key)

    monkeypatch.setattr(CropDataset, "__getitem__", fatal)


def test_a_run_whose_workers_are_killed_is_the_undisturbed_one(run, workplace, monkeypatch, capsys):
    """In the warm start, while the cache is filled, in training and for the loss on held-out utterances."""
    cached, full = ({**stage, "augmentation": {"gain_probability": 0.5}} for stage in CONFIG["stages"])
    stages = [{**cached, "cache_views": 2}, full]
    assert run(data=DATA, stages=stages) == 0
    assert "worker" not in capsys.readouterr().out
    shutil.move(workplace / "checkpoints", workplace / "undisturbed")
    undisturbed = numbers(workplace / "logs")
    shutil.rmtree(workplace / "cache")
    dying(workplace, monkeypatch, times=2)

    def with_deaths(*arguments, **options):
        for flag in workplace.glob("death_*"):
            flag.unlink()
        return loader.make_loader(*arguments, **options)

    for module in ("warm_start", "stage_batches", "feature_extraction", "held_out"):
        monkeypatch.setattr(f"mrl.training.{module}.make_loader", with_deaths)
    assert run(data=DATA, stages=stages) == 0
    output = capsys.readouterr().out
    assert output.count("a data worker died (killed by SIGKILL") >= 4
    same_weights(workplace / "undisturbed/last.pt", workplace / "checkpoints/last.pt")
    assert numbers(workplace / "logs") == undisturbed


def test_a_file_that_kills_every_worker_ends_the_run_and_is_named(run, workplace, monkeypatch, capsys):
    dying(workplace, monkeypatch, times=100)
    assert run(data=DATA) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: a data worker died (killed by SIGKILL")
    assert ".wav, and so did 2 before it at the same batch" in message
