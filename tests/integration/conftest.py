"""A run in small: a few synthesised speakers, a tiny released checkpoint with random weights, two short stages."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from mrl.data.demo import DemoPlan, write_demo_corpus
from mrl.models.pretrained import build_released, save_released

AUGMENTATION = {
    "noise_probability": 0.5,
    "babble_probability": 0.5,
    "room_probability": 0.5,
    "gain_probability": 0.5,
}
CONFIG: dict[str, Any] = {
    "seed": 5,
    "model": {"pretrained": "released.pt", "dropout": 0.1},
    "prefixes": [{"dim": 8, "weight": 1.0}, {"dim": 16, "weight": 0.5}, {"dim": 32, "weight": 1.0}],
    "data": {"train": "speech/train", "workers": 0},
    "validation": {"lists": [{"name": "made", "root": "speech/validation"}]},
    "stages": [
        {
            "name": "head", "train": ["head"], "epochs": 2, "crop_seconds": 0.6, "batch_size": 8,
            "learning_rate": {"head": 1e-3, "classifier": 1e-3}, "augmentation": AUGMENTATION,
        },
        {
            "name": "full", "train": ["backbone", "head"], "epochs": 2, "crop_seconds": 0.5, "batch_size": 8,
            "accumulate_steps": 2, "warmup_epochs": 1, "margin_warmup_epochs": 1, "weight_decay": 1e-2,
            "learning_rate": {"backbone": 1e-3, "head": 1e-3, "classifier": 1e-3},
        },
    ],
    "runtime": {"device": "cpu"},
    "logging": {"tensorboard": False, "plots": False, "every_steps": 1},
    "checkpoints": {"every_epochs": 1, "keep_last": 10, "full_size_tolerance": 100.0},
}  # fmt: skip

Run = Callable[..., int]


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``speech/train``, ``speech/validation`` and ``released.pt``."""
    from tests.conftest import TINY

    folder = tmp_path_factory.mktemp("material")
    short = {"seed": 3, "shortest_seconds": 0.7, "longest_seconds": 1.0}
    write_demo_corpus(folder / "speech/train", DemoPlan(8, 2, 2, **short))
    write_demo_corpus(folder / "speech/validation", DemoPlan(4, 2, 2, first_speaker=100, **short))
    save_released(build_released(TINY, seed=1).eval(), TINY, folder / "released.pt")
    return folder


@pytest.fixture
def workplace(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory with a copy of the material."""
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(workplace: Path) -> Run:
    """``run(*arguments, **changes)``: train.py on the small configuration with top-level sections merged over."""

    def run_train(*arguments: str, **changes: Any) -> int:
        config = copy.deepcopy(CONFIG)
        for key, value in changes.items():
            config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
        (workplace / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        return train.main(["--config", "run.yaml", *arguments])

    return run_train
