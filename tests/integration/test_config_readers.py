"""Every key is read: a run, a dry run and an evaluation are watched for the fields that they read."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import evaluate
from mrl import config as schema
from tests.integration.conftest import CONFIG


def all_fields() -> set[tuple[str, str]]:
    sections = [schema.Section]
    fields = set()
    while sections:
        section = sections.pop()
        sections += section.__subclasses__()
        if section.__module__.startswith(f"{schema.__name__}."):
            fields |= {(section.__name__, field) for field in section.model_fields}
    return fields


# How some fields are read from outside: through these.
PROPERTIES = {"named", "dims", "speed_classes", "has_classes", "label"}


@pytest.fixture
def reads(monkeypatch):
    """(section, field) of each read from outside the modules that define and build the configuration."""
    seen: set[tuple[str, str]] = set()

    def watched(self, name):
        if name in type(self).model_fields:
            frame = sys._getframe(1)
            around = {frame.f_code.co_name, frame.f_back.f_code.co_name if frame.f_back else ""}
            caller = frame.f_globals["__name__"]
            if not caller.startswith(("mrl.config", "pydantic")) or around & PROPERTIES:
                seen.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(schema.Section, "__getattribute__", watched)
    return seen


def one_stage(**changes) -> dict:
    """A run of one short stage."""
    stage = {**CONFIG["stages"][1], "epochs": 2, "warmup_epochs": 0, "margin_warmup_epochs": 0, **changes}
    return {"stages": [stage]}


PAIRS = {
    "utterances_per_speaker": 2,
    "accumulate_steps": 1,
    "learning_rate": {"backbone": 1e-3, "head": 1e-3},
}
NARROW = [{"dim": 8}, {"dim": 24}]  # no wider than the released embedding
EVERY_EFFECT = {
    f"{kind}_probability": 0.5
    for kind in (
        *(
            "speed",
            "codec",
            "noise",
            "music",
            "babble",
            "room",
            "telephone",
            "gain",
            "clipping",
            "mixup",
            "spec",
        ),
    )
}
FURTHER = [
    one_stage(average={"epochs": 2}, optimizer="sgd", schedule="plateau", plateau_patience=1, norm_statistics="batch",
              accumulate_steps=1),
    one_stage(lora={"rank": 2}, margin_warmup_epochs=1, schedule="cosine_restarts", restart_epochs=1, ema_decay=0.9),
    {"loss": {"type": "sphereface2"}, "runtime": {"non_finite": "skip"}, **one_stage()},
    {"loss": {"type": "triplet"}, "prefixes": NARROW, **one_stage(**PAIRS)},
    {"loss": {"type": "supcon"}, "prefixes": NARROW, **one_stage(**PAIRS)},
]  # fmt: skip


def test_each_field_has_a_reader(run, workplace: Path, reads):
    shutil.copytree(workplace / "speech/train/demo0000/session00", workplace / "clips")
    demo = {"directory": "data/demo", "train_speakers": 4, "validation_speakers": 2, "sessions": 2,
            "utterances_per_session": 1}  # fmt: skip
    lists = [
        {"name": "demo", "root": "data/demo/validation", "guard": True, "tolerance": 1.0},
        {"name": "held", "hold_out_speakers": 2, "hold_out_from": "more"},
    ]
    clips = dict.fromkeys(("noise", "music", "babble", "room_responses"), "clips")
    corpora = [
        {"path": "data/demo/train", "name": "demo", "weight": 0.5},
        {"path": "speech/train", "name": "more", "weight": 0.5},
    ]
    shutil.copy(workplace / "released.pt", workplace / "teacher.pt")
    changes = {
        "demo": demo,
        "model": {"teacher": "teacher.pt"},
        "validation": {"lists": lists},
        "data": {"train": corpora, "held_out_share": 0.25, **clips},
        "logging": {"wandb": "offline", "tensorboard": False, "plots": False},
        **one_stage(augmentation=EVERY_EFFECT, teacher_weight=1.0),
    }
    assert run(**changes) == 0
    scored = "evaluation.lists=[{name: demo, trials: logs/trials/demo.txt, root: data/demo/validation}]"
    small = ("evaluation.search_enrolled=300", "evaluation.bootstrap=20", "evaluation.as_norm_top=3", scored)
    asked = ["--checkpoint", "checkpoints/best.pt", "--with", "all", *(f"--set={text}" for text in small)]
    assert evaluate.main(asked) == 0
    for further in FURTHER:
        assert run(**further) == 0
    unread = sorted(f"{section}.{field}" for section, field in all_fields() - reads)
    assert not unread, f"nothing reads {unread}"


def test_the_watch_can_fail(reads):
    assert ("LossConfig", "scale") in all_fields()
    section = schema.LossConfig()
    assert ("LossConfig", "scale") not in reads
    assert section.scale == 30.0
    assert reads == {("LossConfig", "scale")}
