"""Runs over a corpus with one of each kind of bad file: they end well, and say exactly what they could not read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import evaluate
from mrl.audio import SAMPLE_RATE
from mrl.models.checkpoint_format import read_checkpoint
from mrl.models.pretrained import load_released
from tests.data.bad_corpus import ALL_BAD, Planted, plant_bad_corpus
from tests.integration.conftest import AUGMENTATION, CONFIG
from tests.integration.test_evaluate import BEST, SMALL
from tests.integration.test_several_processes import configuration, launch

BATCH = 8
FEW = {"warm_start_utterances": 1}
"""One utterance of each speaker: the warm start meets few of the bad files, and the stages meet the others."""


@pytest.fixture
def planted(workplace: Path) -> Planted:
    made = plant_bad_corpus(workplace / "bad")
    assert len(made) % BATCH == 0  # so that an epoch leaves none out
    return made


def stage(index: int, **changes: Any) -> dict[str, Any]:
    """One epoch of a stage of the small configuration."""
    once = {"epochs": 1, "batch_size": BATCH, "warmup_epochs": 0, "margin_warmup_epochs": 0}
    return {**CONFIG["stages"][index], **once, **changes}


def data(share: float, workers: int = 0) -> dict[str, Any]:
    return {"train": "bad", "workers": workers, "max_unreadable_share": share}


def require_exact_account(made: Planted, output: str) -> None:
    """Log, summary and checkpoint name each file that cannot be used once, with its kind, and no other."""
    count, kinds = len(made.unusable), Counter(made.unusable.values())
    assert f"{count} of {len(made)} training utterances could not be read and were replaced: " in output
    for kind, number in kinds.items():
        assert f"{number} {kind}" in output
    summary = json.loads(Path("logs/summary.json").read_text(encoding="utf-8"))
    assert summary["unreadable_by_kind"] == kinds
    log = Path("logs/training.log").read_text(encoding="utf-8").splitlines()
    said = sorted(line.partition("  replaced: ")[2] for line in log if "  replaced: " in line)
    assert said == summary["unreadable"]
    assert len(said) == count
    for path in made.unusable:
        shown = path.replace("\n", "\\n").replace("\udcff\udcfe", r"\udcff\udcfe")
        assert sum(f"bad/{shown}: " in line for line in said) == 1, path
    state = read_checkpoint("checkpoints/last.pt")["state"]
    assert sorted(state["unreadable"].values()) == said


@pytest.mark.parametrize(
    ("index", "changes", "workers"),
    [(1, {}, 0), (0, {}, 2), (0, {"cache_views": 1}, 0)],
    ids=["files", "workers", "cache"],
)
def test_a_run_over_bad_files_ends_well_and_names_each(
    run, planted, capsys, index: int, changes: dict[str, Any], workers: int
) -> None:
    assert run(model=FEW, data=data(1.0, workers), stages=[stage(index, **changes)]) == 0
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    require_exact_account(planted, captured.out)


def test_what_only_the_warm_start_met_is_counted_and_kept_in_its_checkpoint(run, planted, capsys) -> None:
    assert run(data=data(1.0), stages=[]) == 0
    require_exact_account(planted, capsys.readouterr().out)
    assert run("--resume", "checkpoints/last.pt", data=data(1.0), stages=[]) == 0
    require_exact_account(planted, capsys.readouterr().out)


IN_EACH_READER = pytest.mark.parametrize(
    ("few", "stages"),
    [({}, []), (FEW, [stage(0)]), (FEW, [stage(0, cache_views=1)])],
    ids=["warm start", "files", "cache"],
)
"""The warm start alone, training from files, and training from a feature cache."""


@IN_EACH_READER
def test_too_many_bad_files_stop_the_run_with_one_line(
    run, planted, capsys, few: dict[str, Any], stages: list[dict[str, Any]]
) -> None:
    assert run(model=few, data=data(0.3), stages=stages) == 2
    captured = capsys.readouterr()
    assert ("epoch 0" in captured.out) == bool(stages)
    message = captured.err
    assert (
        "training utterances could not be read, more than data.max_unreadable_share (0.3) allows" in message
    )
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert "  stopped: " in Path("logs/training.log").read_text(encoding="utf-8")


def test_a_run_that_stopped_goes_on_with_a_larger_share(run, planted, capsys) -> None:
    """Which changes no number: the configuration counts as the same."""
    assert run(model=FEW, data=data(0.3), stages=[stage(0)]) == 2
    assert "more than data.max_unreadable_share (0.3) allows" in capsys.readouterr().err
    assert run("--resume", "auto", model=FEW, data=data(1.0), stages=[stage(0)]) == 0
    summary = json.loads(Path("logs/summary.json").read_text(encoding="utf-8"))
    assert summary["unreadable_by_kind"] == Counter(planted.unusable.values())


def test_as_many_as_are_allowed_do_not_stop_the_run(run, planted) -> None:
    assert run(data=data(len(planted.unusable) / len(planted)), stages=[stage(0)]) == 0


def test_the_account_of_bad_files_goes_on_when_a_run_is_resumed(run, planted, capsys) -> None:
    assert run(model=FEW, data=data(1.0), stages=[stage(0)]) == 0
    more = {"model": FEW, "data": data(1.0), "stages": [stage(0), stage(1)]}
    assert run("--resume", "checkpoints/last.pt", "--allow-config-change", **more) == 0
    require_exact_account(planted, capsys.readouterr().out)


@pytest.mark.slow
def test_a_cohort_of_training_speakers_leaves_bad_files_out(run, planted, capsys) -> None:
    assert run(data=data(1.0), stages=[stage(0)]) == 0
    capsys.readouterr()
    assert evaluate.main([*BEST, *SMALL, "--with", "cohort"]) == 0
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    named = [line for line in captured.out.splitlines() if line.startswith("cohort, replaced or left out: ")]
    assert any(f"bad/{ALL_BAD}/s2/silent.wav: silent" in line for line in named)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_clips_are_named_and_do_not_end_a_run(run, workplace, planted, workers: int) -> None:
    noise = workplace / "noise"
    noise.mkdir()
    (noise / "empty.wav").touch()
    (noise / "gone.wav").symlink_to("nowhere.wav")
    (noise / "good.wav").write_bytes((workplace / "bad/id_0/s1/good.wav").read_bytes())
    augmentation = {**AUGMENTATION, "noise_probability": 1.0}
    settings = {**data(1.0, workers), "noise": "noise", "room_responses": "noise"}
    assert run(data=settings, stages=[stage(0, augmentation=augmentation)]) == 0
    log = Path("logs/training.log").read_text(encoding="utf-8")
    assert log.count("clip replaced: noise/empty.wav: empty (0 bytes)") == 1
    assert log.count("clip replaced: noise/gone.wav: a link that leads nowhere") == 1


def test_all_bad_files_of_a_validation_list_are_named_before_the_warm_start(run, workplace, capsys) -> None:
    files = sorted((workplace / "speech/validation").rglob("*.wav"))
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:500])
    files[2].unlink()
    files[2].symlink_to("nowhere.wav")
    least = load_released("released.pt").min_samples
    soundfile.write(files[3], np.full(least - 1, 0.1, dtype=np.float32), SAMPLE_RATE)
    soundfile.write(files[4], np.full(least, 0.1, dtype=np.float32), SAMPLE_RATE)
    assert run() == 2
    captured = capsys.readouterr()
    for file in files[:4]:
        assert f"{file.name}: " in captured.err
    assert "4 of " in captured.err
    assert f"a waveform of {least - 1} samples is too short" in captured.err
    assert "warm start" not in captured.out


@pytest.mark.slow
@IN_EACH_READER
def test_two_processes_count_the_files_of_both(
    workplace, planted, monkeypatch, few: dict[str, Any], stages: list[dict[str, Any]]
) -> None:
    monkeypatch.chdir(workplace)
    settings = {"model": {"pretrained": "released.pt", **few}, "stages": stages}
    result = launch(configuration(**settings, data=data(1.0)), workplace, 2)
    assert result.returncode == 0, result.stderr
    require_exact_account(planted, result.stdout)
    share = (len(planted.unusable) - 1) / len(planted)  # more than either process finds by itself
    result = launch(configuration(**settings, data=data(share)), workplace, 2)
    assert result.returncode != 0
    assert "more than data.max_unreadable_share" in result.stderr
