"""Every key is read: a run, a dry run and an evaluation are watched for the fields that they read."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import evaluate
from mrl import config as schema


def all_fields() -> set[tuple[str, str]]:
    sections = [schema.Section]
    fields = set()
    while sections:
        section = sections.pop()
        sections += section.__subclasses__()
        if section.__module__ == schema.__name__:
            fields |= {(section.__name__, field) for field in section.model_fields}
    return fields


@pytest.fixture
def reads(monkeypatch):
    """(section, field) of each read from outside the modules that define and build the configuration."""
    seen: set[tuple[str, str]] = set()

    def watched(self, name):
        if name in type(self).model_fields:
            caller = sys._getframe(1).f_globals["__name__"]
            # LearningRates.named is how the rates are read.
            through = sys._getframe(1).f_code.co_name == "named"
            if not caller.startswith(("mrl.config", "pydantic")) or through:
                seen.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(schema.Section, "__getattribute__", watched)
    return seen


def test_each_field_has_a_reader(run, workplace: Path, reads):
    shutil.copytree(workplace / "speech/train/demo0000/session00", workplace / "clips")
    demo = {"directory": "data/demo", "train_speakers": 4, "validation_speakers": 2, "sessions": 2,
            "utterances_per_session": 1}  # fmt: skip
    lists = [
        {"name": "demo", "root": "data/demo/validation"},
        {"name": "held", "hold_out_speakers": 2},
    ]
    changes = {
        "demo": demo,
        "validation": {"lists": lists},
        "data": {"train": "speech/train", "noise": "clips", "room_responses": "clips"},
        "logging": {"wandb": "offline", "tensorboard": False, "plots": False},
    }
    assert run(**changes) == 0
    assert evaluate.main(["--checkpoint", "checkpoints/best.pt"]) == 0
    unread = sorted(f"{section}.{field}" for section, field in all_fields() - reads)
    assert not unread, f"nothing reads {unread}"


def test_the_watch_can_fail(reads):
    section = schema.LossConfig()
    assert ("LossConfig", "scale") not in reads
    assert section.scale == 30.0
    assert reads == {("LossConfig", "scale")}
