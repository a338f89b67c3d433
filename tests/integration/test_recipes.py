"""The recipes that the repository ships: they load, they say what is missing, they run on real speech."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import train
from mrl.config_file import load_config
from mrl.models.pretrained import load_released

ROOT = Path(__file__).parent.parent.parent
RECIPES = [ROOT / "config.yaml", *sorted((ROOT / "configs").glob("*.yaml"))]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_load(path):
    config = load_config(path)
    assert config.stages
    assert config.dims == tuple(sorted(config.dims))


def test_the_voxceleb_recipe_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--config", str(ROOT / "config.yaml")]) == 2
    message = capsys.readouterr().err
    for key in (
        "model.pretrained",
        "data.train",
        "validation.lists.vox1-o.root",
        "validation.lists.vox1-o.trials",
    ):
        assert f"{key}: " in message
    assert "train.py --config configs/demo.yaml" in message


def test_the_demo_encoder_is_small_and_in_the_released_format():
    path = ROOT / "configs" / "demo_encoder.pt"
    assert path.stat().st_size < 1_000_000
    assert load_released(path).embedding_dim == 64


def test_own_recordings_on_real_speech(speech, tmp_path, monkeypatch, capsys):
    """Warm start and epoch 0 on m4a and FLAC, with the list that comes with them and one held out of training."""
    monkeypatch.chdir(tmp_path)
    lists = (
        f"[{{name: val, root: {speech}/val, trials: {speech}/trials/val_trials.txt}}, "
        "{name: held-out, hold_out_speakers: 10}]"
    )
    settings = {
        "model.pretrained": ROOT / "configs" / "demo_encoder.pt",
        "model.warm_start_utterances": 400,
        "data.train": speech / "train",
        "data.noise": speech / "noise",
        "data.room_responses": speech / "room_responses",
        "data.workers": 0,
        "prefixes": "[{dim: 16}, {dim: 64}]",
        "validation.lists": lists,
        "stages": "[]",
    }
    arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    assert train.main(["--config", str(ROOT / "configs" / "own_speech.yaml"), *arguments]) == 0
    output = capsys.readouterr().out
    assert "1680 trials (560 target), 160 utterances of 20 speakers" in output
    assert "utterances of 346 speakers" in output
    summary = json.loads((tmp_path / "logs/own_speech/summary.json").read_text(encoding="utf-8"))
    # Far better than chance on speech of a kind that the synthetic pretraining never saw, and far from good.
    assert 0.05 < summary["rows"][0]["eer"]["64"] < 0.35
