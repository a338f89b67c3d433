"""A stage from a feature cache trains as with the backbone in the loop, and loses nothing when it is interrupted."""

from __future__ import annotations

import copy
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import mrl.training.stage_batches as stage_batches
from mrl.models.checkpoint_format import read_checkpoint
from mrl.models.released import Trunk
from mrl.stopping import Stopped
from mrl.training import feature_store
from tests.integration.conftest import AUGMENTATION, CONFIG
from tests.integration.lives import held_by_another


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(feature_store, "BLOCK_ROWS", 8)
    monkeypatch.setattr("mrl.training.feature_extraction.BATCH", 4)


def head_stage(**changes) -> dict:
    """One frozen stage of two epochs, from two views of the 32 training utterances."""
    stage = {**copy.deepcopy(CONFIG["stages"][0]), "cache_views": 2, **changes}
    return {"stages": [stage], "model": {"dropout": 0.0}}


def records(kind: str) -> list[dict]:
    lines = Path("logs/metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def losses() -> list[float]:
    return [record["train/loss"] for record in records("step")]


def caches() -> list[Path]:
    return sorted(Path("cache/features").iterdir())


def weights(path: str = "checkpoints/last.pt") -> dict[str, torch.Tensor]:
    content = read_checkpoint(path)
    return {**content["encoder"], **content["criterion"]}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_with_as_many_views_as_epochs_it_hears_the_same_crops(run):
    alone = {
        "noise_probability": 0.5,
        "room_probability": 0.5,
        "gain_probability": 0.5,
        "speed_probability": 0.3,
    }
    assert run(**head_stage(cache_views=0, augmentation=alone)) == 0
    in_the_loop, scores = losses(), [record["mean_eer"] for record in records("epoch")]
    assert run(**head_stage(cache_views=2, augmentation=alone)) == 0
    assert losses() == pytest.approx(in_the_loop, rel=2e-3)  # statistics in half precision
    assert losses() != in_the_loop
    assert [record["mean_eer"] for record in records("epoch")] == pytest.approx(scores, abs=0.02)


def test_an_epoch_does_not_go_through_the_backbone(run, monkeypatch):
    rows = []
    real = Trunk.forward

    def counted(self, waveforms):
        rows.append(len(waveforms))
        return real(self, waveforms)

    monkeypatch.setattr(Trunk, "forward", counted)
    assert run(**head_stage(epochs=5)) == 0
    assert sum(rows) == 32 + 2 * 32  # the warm start, and two views


def test_a_second_run_reads_the_cache_and_learns_the_same(run, capsys):
    changes = head_stage(augmentation=AUGMENTATION)
    assert run(**changes) == 0
    first, said = weights(), capsys.readouterr().out
    assert "2 views of 32 utterances" in said
    assert "free)" in said
    assert run(**changes) == 0
    assert "complete in" in capsys.readouterr().out
    assert_same(first, weights())
    assert len(caches()) == 1


@pytest.mark.parametrize("block", [0, 3, 7])
def test_a_fill_that_was_cut_off_goes_on(run, monkeypatch, capsys, block):
    changes = head_stage(augmentation=AUGMENTATION)
    assert run(**changes) == 0
    whole = weights()
    content = np.fromfile(caches()[0] / "rows.bin", dtype=np.uint8)
    for path in caches()[0].iterdir():
        path.unlink()
    real = feature_store.FeatureStore.write

    def cut_off(self, number, *arguments):
        if number == block:
            raise Stopped(signal.SIGINT)
        real(self, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(feature_store.FeatureStore, "write", cut_off)
        assert run(**changes) == 130
    capsys.readouterr()
    assert run(**changes) == 0
    said = capsys.readouterr().out
    assert (f"{8 * block} of 64 crops are there from an earlier start" in said) == (block > 0)
    assert np.array_equal(np.fromfile(caches()[0] / "rows.bin", dtype=np.uint8), content)
    assert_same(whole, weights())


def test_a_truncated_or_damaged_cache_is_noticed_and_mended(run, capsys):
    changes = head_stage()
    assert run(**changes) == 0
    whole, rows = weights(), caches()[0] / "rows.bin"
    content = rows.read_bytes()
    for damaged in (content[:-1], content[:100] + b"\0\0\0\0" + content[104:]):
        rows.write_bytes(damaged)
        assert run(**changes) == 0
        assert rows.read_bytes() == content
        assert_same(whole, weights())


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        head_stage(crop_seconds=0.5),
        head_stage(augmentation={"gain_probability": 0.5}),
        "weights",
        "file",
    ],
    ids=["seed", "crop", "augmentation", "weights", "file"],
)
def test_a_stale_cache_is_not_used(run, workplace, capsys, change):
    assert run(**head_stage()) == 0
    (before,) = caches()
    changes = head_stage()
    if change == "file":
        wav = sorted((workplace / "speech/train").rglob("*.wav"))[3]
        wav.write_bytes(wav.read_bytes())
    elif change == "weights":
        content = torch.load("released.pt", weights_only=True)
        content["state_dict"]["pool.linear2.weight"] *= 1.01
        torch.save(content, "released.pt")
    else:
        changes |= change
    capsys.readouterr()
    assert run(**changes) == 0
    assert "1 other feature caches" in capsys.readouterr().out
    assert len(caches()) == 2
    assert before in caches()


def test_unreadable_utterances_are_named_by_each_run_that_uses_the_cache(run, workplace, capsys):
    (sorted((workplace / "speech/train").rglob("*.wav"))[3]).write_bytes(b"RIFF")
    few = {"warm_start_utterances": 8}  # of which that file is none
    changes = {**head_stage(), "model": few, "data": {"max_unreadable_share": 0.1}}
    for _ in range(2):
        capsys.readouterr()
        assert run(**changes) == 0
        assert capsys.readouterr().out.count("\nreplaced: ") == 1
    assert list(read_checkpoint("checkpoints/last.pt")["state"]["unreadable"])
    assert run(**{**changes, "data": {"max_unreadable_share": 0.0}}) == 2


@pytest.mark.parametrize("number", [1, 2])
def test_a_resumed_stage_goes_on_bit_for_bit(run, number):
    changes = head_stage(epochs=3, augmentation={"noise_probability": 0.5, "mixup_probability": 0.5})
    changes["model"] = {"dropout": 0.2}
    assert run(**changes) == 0
    whole = weights()
    assert run("--resume", f"checkpoints/epoch_{number:03d}.pt", **changes) == 0
    assert_same(whole, weights())


def test_speeds_mixup_masks_and_a_teacher_are_cached_too(run, monkeypatch):
    effects = {"speed_probability": 0.9, "mixup_probability": 0.9, "spec_probability": 0.9}
    rates = {"head": 1e-3, "classifier": 1e-3}
    stage = head_stage(augmentation=effects, teacher_weight=2.0, learning_rate=rates)["stages"]
    assert run(stages=[{**stage[0], "cache_views": 0}]) == 0
    plain = losses()
    seen = []
    real = stage_batches.CachedBatches.__iter__

    def watched(self):
        for batch in real(self):
            seen.append(batch)
            yield batch

    monkeypatch.setattr(stage_batches.CachedBatches, "__iter__", watched)
    assert run(stages=stage) == 0
    assert losses() == pytest.approx(plain, rel=0.3)  # other partners, other masks
    assert any(float(record["train/teacher_loss"]) > 1e-5 for record in records("step"))
    speakers = torch.cat([batch.targets.speakers for batch in seen])
    assert speakers.max() >= 8  # classes at other speeds
    assert (torch.cat([batch.targets.shares for batch in seen]) < 1).any()
    assert seen[0].reference.shape == (8, 32)


def test_repeats_within_an_epoch_are_other_views(run, monkeypatch):
    rows = []
    real = stage_batches.CachedBatches.rows_of

    def watched(self, keys):
        first, again, later, round_again = real(self, [(1, 5), (1, 5, 1), (2, 5), (3, 5)])
        rows.append((first, again, later, round_again))
        return real(self, keys)

    monkeypatch.setattr(stage_batches.CachedBatches, "rows_of", watched)
    assert run(**head_stage(epochs=1)) == 0
    first, again, later, round_again = rows[0]
    assert first < 32 <= again  # the other view
    assert again == later
    assert first == round_again


def test_too_little_room_is_said_before_anything_is_computed(run, monkeypatch, capsys):
    monkeypatch.setattr("mrl.training.feature_cache._free_bytes", lambda folder: 1000)
    assert run(**head_stage()) == 2
    error = capsys.readouterr().err
    assert "feature cache of stage head needs" in error
    assert "stages.head.cache_views" in error


def test_another_run_that_fills_the_same_cache_is_an_error(run, capsys):
    assert run(**head_stage()) == 0
    rows = caches()[0] / "rows.bin"
    with held_by_another(caches()[0]):
        assert run(**head_stage()) == 0  # it is complete: nobody fills it
        rows.write_bytes(b"\0" + rows.read_bytes()[1:])
        assert run(**head_stage()) == 2
    assert "another run is filling this feature cache" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"train": ["backbone", "head"], "learning_rate": {"backbone": 1e-3, "head": 1e-3, "classifier": 1e-3}},
         "cache_views needs a frozen backbone"),
        ({"augmentation": {"gain_probability": 0.5, "ramp_epochs": 1}}, "ramp_epochs and cache_views"),
    ],
)  # fmt: skip
def test_what_cannot_be_cached_is_refused(run, capsys, stage, message):
    assert run(**head_stage(**stage)) == 2
    assert message in capsys.readouterr().err
