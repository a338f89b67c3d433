"""Whole runs with each kind of option: they do what they say, and resume bit for bit."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mrl
from mrl.config_file import config_to_dict, load_config
from mrl.models.checkpoint_format import read_checkpoint
from tests.integration.conftest import AUGMENTATION, CONFIG
from tests.integration.test_run import numbers, records, same_weights


def stages(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages of the small run, each with its ``changes``."""
    return [
        {**copy.deepcopy(stage), **change} for stage, change in zip(CONFIG["stages"], changes, strict=True)
    ]


EVERYTHING = {
    **AUGMENTATION,
    **{f"{kind}_probability": 0.5 for kind in ("speed", "codec", "telephone", "clipping", "mixup", "spec")},
    "ramp_epochs": 1.5,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "moving average": {"stages": stages({"ema_decay": 0.9}, {"ema_decay": 0.9, "norm_statistics": "batch",
                                                              "accumulate_steps": 1})},
    "mean of epochs": {"stages": stages({"average": {"epochs": 2, "of": "best"}},
                                        {"average": {"epochs": 2}, "norm_statistics": "batch",
                                         "accumulate_steps": 1})},
    "adapters": {"stages": stages({}, {"lora": {"rank": 2, "dropout": 0.1}, "ema_decay": 0.8})},
    "teacher": {"stages": stages({"teacher_weight": 1.0}, {"teacher_weight": 0.5})},
    "sgd, plateau": {"stages": stages({"optimizer": "sgd", "schedule": "plateau", "plateau_patience": 1, "epochs": 3},
                                      {"optimizer": "sgd", "schedule": "cosine_restarts", "restart_epochs": 1})},
    "augmentation": {"stages": stages({"augmentation": EVERYTHING},
                                      {"augmentation": {"speed_probability": 0.5, "speed_factors": [1.1]}})},
    "progressive": {"stages": stages({"prefix_start": {8: 2}}, {"depth_decay": 0.5, "schedule": "one_cycle",
                                                                "warmup_steps": 2, "warmup_epochs": 0})},
    "sphereface2": {"loss": {"type": "sphereface2", "sphereface2_margin": "a"}},
    "triplet": {"loss": {"type": "triplet"}, "prefixes": [{"dim": 8}, {"dim": 16}, {"dim": 24}], "stages": [
        {**stage, "utterances_per_speaker": 2, "accumulate_steps": 1, "augmentation": {},
         "learning_rate": dict.fromkeys(stage["train"], 0.001)} for stage in CONFIG["stages"]]},
    "held-out": {"data": {"held_out_share": 0.25, "balance": "speakers"}},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_a_resumed_run_is_the_uninterrupted_one(run, workplace, name):
    """From the middle of the first stage and of the second."""
    assert run(**OPTIONS[name]) == 0
    straight = workplace / "straight"
    shutil.copytree(workplace / "checkpoints", straight)
    uninterrupted = numbers(workplace / "logs")
    epochs = sorted(int(path.stem[6:]) for path in straight.glob("epoch_*.pt"))
    for epoch in epochs[:-1] if name == "mean of epochs" else (epochs[0], epochs[-2]):
        shutil.rmtree(workplace / "checkpoints")
        assert run("--resume", str(straight / f"epoch_{epoch:03d}.pt"), **OPTIONS[name]) == 0
        same_weights(straight / "last.pt", workplace / "checkpoints/last.pt")
        same_weights(straight / "best.pt", workplace / "checkpoints/best.pt")
        assert numbers(workplace / "logs") == uninterrupted


def final(workplace: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(workplace / "checkpoints/last.pt")["encoder"]


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in ("held-out", "triplet")])
def test_an_option_changes_the_weights(run, workplace, name):
    assert run() == 0
    plain = final(workplace)
    assert run(**OPTIONS[name]) == 0
    changed = final(workplace)
    assert plain.keys() == changed.keys()
    assert any(not torch.equal(plain[key], changed[key]) for key in plain)


def test_adapters_are_merged_in_the_checkpoint(run, workplace):
    changes = {"stages": stages({"epochs": 1}, {"lora": {"rank": 2}, "epochs": 1})}
    assert run(**changes) == 0
    content = read_checkpoint("checkpoints/last.pt")
    released = torch.load("released.pt", weights_only=True)["state_dict"]
    backbone = {
        k.removeprefix("backbone."): v for k, v in content["encoder"].items() if k.startswith("backbone.")
    }
    moved = [key for key, value in backbone.items() if not torch.equal(value, released[key])]
    assert moved
    assert all(key.endswith("weight") for key in moved)
    assert mrl.load_encoder("checkpoints/last.pt").dims == (8, 16, 32)


def test_the_mean_of_epochs_is_an_epoch_of_its_own(run, workplace, capsys):
    assert run(stages=stages({"average": {"epochs": 2}}, {})) == 0
    epochs = [record for record in records(workplace / "logs") if record["kind"] == "epoch"]
    assert [record.get("average_of") for record in epochs] == [None, None, None, "1, 2", None, None]
    parts = [
        read_checkpoint(f"checkpoints/epoch_00{n}.pt")["encoder"]["head.linear.weight"] for n in (1, 2, 3)
    ]
    torch.testing.assert_close(parts[2], (parts[0].double() + parts[1].double()).float() / 2)


def test_a_moving_average_is_what_is_scored_and_kept(run, workplace):
    assert run(stages=stages({"ema_decay": 0.9}, {})) == 0
    content = read_checkpoint("checkpoints/epoch_001.pt")
    live = content["stage_state"]["live"]["encoder"]["head.linear.weight"]
    kept = content["encoder"]["head.linear.weight"]
    assert not torch.equal(live, kept)


def test_a_strong_teacher_holds_the_embedding(run, workplace):
    distances = []
    for weight in (1e-6, 1e4):
        changes = {"epochs": 5, "augmentation": {}, "teacher_weight": weight}
        assert run(model={"dropout": 0.0}, stages=stages(changes, {})[:1]) == 0
        steps = [r["train/teacher_loss"] for r in records(workplace / "logs") if r["kind"] == "step"]
        assert steps[0] == pytest.approx(0.0, abs=1e-5)
        distances.append(np.mean(steps[-4:]))
    assert distances[1] < 0.5 * distances[0]


def test_another_model_as_the_teacher(run, workplace):
    shutil.copy("released.pt", "teacher.pt")
    changes = {
        "model": {"teacher": "teacher.pt"},
        "stages": stages({"teacher_weight": 1.0}, {"teacher_weight": 1.0}),
    }
    assert run(**changes) == 0
    steps = [r["train/teacher_loss"] for r in records(workplace / "logs") if r["kind"] == "step"]
    assert steps[0] < 0.2  # the map starts from a least-squares fit
    assert min(steps) > 0


def test_the_mean_of_the_last_epochs_does_not_need_their_scores(run, workplace):
    lists = CONFIG["validation"]["lists"]
    changes = {
        "stages": stages({"average": {"epochs": 2}}, {})[:1],
        "validation": {"every_epochs": 2, "lists": lists},
    }
    assert run(**changes) == 0
    epochs = [record for record in records(workplace / "logs") if record["kind"] == "epoch"]
    assert [record.get("average_of") for record in epochs] == [None, None, "1, 2"]


@pytest.mark.parametrize("kind", ["triplet", "supcon"])
def test_pair_losses_learn_by_heart_and_refuse_numbers_that_stay_zero(run, capsys, kind):
    pairs = [{**OPTIONS["triplet"]["stages"][1], "margin_warmup_epochs": 0}]
    prefixes = [{"dim": 8}, {"dim": 24}]
    assert run("--overfit", "8", loss={"type": kind}, stages=pairs, prefixes=prefixes) == 0
    output = capsys.readouterr().out
    assert "on 8 utterances of 4 speakers, near zero" in output
    first = float(output.split("stage full: loss ")[1].split()[0])
    assert first > 0.01
    assert run(loss={"type": kind}, stages=pairs) == 2
    assert "make 24 the widest prefix" in capsys.readouterr().err


def test_a_batch_that_cannot_be_cut_evenly_accumulates_all_the_same(run):
    assert run(stages=stages({}, {"batch_size": 60, "accumulate_steps": 20})[1:]) == 0


def test_too_many_wrong_speakers_are_an_error(run, capsys):
    assert run(loss={"inter_top_k": 8}, stages=stages({}, {})[:1]) == 2
    assert "of 8 training speakers at most 7 are wrong ones" in capsys.readouterr().err


def test_held_out_loss_is_recorded(run, workplace):
    assert run(data={"held_out_share": 0.25}) == 0
    epochs = [record for record in records(workplace / "logs") if record["kind"] == "epoch"]
    for record in epochs:
        for dim in (8, 16, 32):
            assert 0.0 <= record[f"held_out/accuracy_{dim}"] <= 1.0
            assert record[f"held_out/loss_{dim}"] > 0.0
        gaps = [record[f"held_out/loss_{dim}"] - record[f"train_sample/loss_{dim}"] for dim in (8, 16, 32)]
        assert record["held_out/gap"] == pytest.approx(np.mean(gaps), abs=1e-5)


def test_speeds_are_classes_of_their_own_where_a_stage_says_so(run, workplace):
    assert run(**OPTIONS["augmentation"]) == 0
    third, fourth = (
        read_checkpoint(f"checkpoints/epoch_00{n}.pt")["criterion"]["loss.class_vectors"].split(8)
        for n in (3, 4)
    )
    assert len(third) == 3  # of 8 speakers at the true speed, at 0.9 and at 1.1
    assert torch.equal(third[1], fourth[1])  # the second stage has true speed and 1.1
    assert not torch.equal(third[0], fourth[0])
    assert not torch.equal(third[2], fourth[2])


def test_gradient_flow_is_recorded(run, workplace):
    assert run(logging={"gradient_flow_every_steps": 2}) == 0
    flow = [r for r in records(workplace / "logs") if any(key.startswith("gradient/") for key in r)]
    assert len(flow) == 8


def test_options_of_a_stage_reach_overfit_and_the_plan(run, capsys):
    changes = OPTIONS["adapters"]
    assert run("--dry-run", **changes) == 0
    assert run("--overfit", "6", **changes) == 0
    assert capsys.readouterr().out.count("near zero") == 2


def test_the_stored_configuration_reads_back_with_every_option(run, workplace):
    assert run(stages=OPTIONS["progressive"]["stages"][:1]) == 0
    again = load_config(workplace / "logs/config.yaml")
    assert config_to_dict(again) == read_checkpoint("checkpoints/last.pt")["config"]


def test_masks_reach_a_frozen_backbone_in_training_alone(run, workplace, monkeypatch):
    seen = []
    masked = mrl.models.spec_augment.SpecAugment.forward

    def watched(self, mel):
        image = masked(self, mel)
        seen.append((len(mel), bool((image == 0).any())))
        return image

    monkeypatch.setattr(mrl.models.spec_augment.SpecAugment, "forward", watched)
    augmentation = {"spec_probability": 1.0, "spec_time_seconds": 0.2}
    assert run(stages=stages({"augmentation": augmentation}, {})[:1]) == 0
    training = [zeros for size, zeros in seen if size == 8]
    scoring = [zeros for size, zeros in seen if size == 1]
    assert sum(training) > len(training) / 2
    assert not any(scoring)
