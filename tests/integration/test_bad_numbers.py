"""Runs that meet numbers that are not finite, or a stage that does harm: nothing bad is kept, and all of it is said."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from mrl.models.checkpoint_format import read_checkpoint
from mrl.training import held_out, validation, warm_start
from mrl.training.updater import Updater
from tests.integration.conftest import CONFIG

ROOT = Path(__file__).parent.parent.parent
SKIP = {"device": "cpu", "non_finite": "skip", "max_skipped": 2}


def poison(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """A NaN in the third item of the batch of each of ``steps``."""
    update = Updater.update

    def poisoned(self, batch, *, run_step, **options):
        if run_step in steps:
            inputs = batch.inputs.clone()
            inputs[2, 10] = float("nan")
            batch = batch._replace(inputs=inputs)
        return update(self, batch, run_step=run_step, **options)

    monkeypatch.setattr(Updater, "update", poisoned)


def records(kind: str) -> list[dict]:
    lines = Path("logs/metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def weights(path: str | Path) -> dict[str, torch.Tensor]:
    content = read_checkpoint(path)
    return {**content["encoder"], **content.get("criterion", {})}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


STAGES = {
    "average and statistics": {"ema_decay": 0.9, "norm_statistics": "batch", "accumulate_steps": 1},
    "accumulated": {},
}


@pytest.mark.parametrize("changes", STAGES.values(), ids=STAGES.keys())
def test_skipped_updates_are_counted_and_listed_and_a_resumed_run_is_the_uninterrupted_one(
    run, workplace, capsys, monkeypatch, changes
):
    stages = [CONFIG["stages"][0], {**CONFIG["stages"][1], **changes}]
    poison(monkeypatch, 1, 9, 10, 13)
    assert run(stages=stages, runtime=SKIP) == 0
    output = capsys.readouterr().out
    assert "step 2: skipped, the loss is nan; the batch's 8 files are listed in logs/non_finite.txt" in output
    assert "4 of 16 updates were skipped, their loss or gradient was not finite" in output
    assert json.loads(Path("logs/summary.json").read_text())["skipped_updates"] == 4
    steps = records("step")
    assert [step["step"] for step in steps if step["train/skipped"]] == [2, 10, 11, 14]
    assert steps[9]["train/loss"] is None
    assert [step["train/skipped_in_run"] for step in steps[8:12]] == [1.0, 2.0, 3.0, 3.0]
    lines = Path("logs/non_finite.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        f"# step {step}, skipped: the loss is nan" for step in (2, 10, 11, 14)
    ]
    assert all((workplace / "speech/train" / line).is_file() for line in lines if not line.startswith("#"))
    assert len(lines) == 4 * 9

    straight = workplace / "straight"
    shutil.move(workplace / "checkpoints", straight)
    for source in ("epoch_001", "epoch_003"):
        assert run("--resume", str(straight / f"{source}.pt"), stages=stages, runtime=SKIP) == 0
        assert_same(weights(straight / "last.pt"), weights("checkpoints/last.pt"))
        assert read_checkpoint("checkpoints/last.pt")["state"]["skipped"] == 4


def test_too_many_skipped_updates_stop_the_run_with_evidence(run, capsys, monkeypatch):
    poison(monkeypatch, 4, 5, 6, 7)
    assert run(runtime=SKIP) == 2
    message = capsys.readouterr().err
    assert (
        "step 7: the loss is nan; 3 skipped in a row and 3 in this epoch, runtime.max_skipped is 2" in message
    )
    assert "the weights were not changed" in message
    assert message.count("\n") == 1
    titles = [line for line in Path("logs/non_finite.txt").read_text().splitlines() if line.startswith("#")]
    assert [title.split(":")[0] for title in titles] == [
        "# step 5, skipped",
        "# step 6, skipped",
        "# step 7, stopped",
    ]
    capsys.readouterr()
    assert run(stages=[]) == 0  # a fresh run in the same folder has a listing of its own
    assert not Path("logs/non_finite.txt").exists()
    assert Path("logs/non_finite.1.txt").is_file()


def test_a_stopped_run_goes_on_by_skipping(run, capsys, monkeypatch):
    poison(monkeypatch, 5)
    assert run() == 2
    assert run("--resume", "checkpoints/last.pt", runtime=SKIP) == 0
    assert "1 of 16 updates were skipped" in capsys.readouterr().out


def test_updates_from_a_feature_cache_are_skipped_too(run, capsys, monkeypatch):
    poison(monkeypatch, 2)
    assert run(stages=[{**CONFIG["stages"][0], "cache_views": 1}], runtime=SKIP) == 0
    assert "1 of 8 updates were skipped" in capsys.readouterr().out


def break_weights(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The update ``after`` leaves an infinite weight, whose gradient was finite."""
    update = Updater.update

    def breaking(self, batch, *, run_step, **options):
        values = update(self, batch, run_step=run_step, **options)
        if run_step == after:
            with torch.no_grad():
                self._encoder.head.linear.weight[0, 0] = float("inf")
        return values

    monkeypatch.setattr(Updater, "update", breaking)


def test_weights_that_diverged_are_named_at_the_next_loss(run, capsys, monkeypatch):
    break_weights(monkeypatch, after=4)
    assert run(runtime=SKIP) == 2
    message = capsys.readouterr().err
    assert "step 8: the loss is nan; 3 skipped in a row" in message
    assert "since an earlier update, weights are NaN or infinite, in head.linear.weight (1 of " in message


def test_weights_that_diverged_at_the_end_of_an_epoch_are_in_no_checkpoint(
    run, workplace, capsys, monkeypatch
):
    break_weights(monkeypatch, after=7)
    assert run() == 2
    message = capsys.readouterr().err
    assert "epoch 2, after step 8: weights are NaN or infinite, in head.linear.weight" in message
    assert "best.pt is as it was, the state to look at is in logs/non_finite.pt" in message
    assert read_checkpoint("checkpoints/last.pt")["state"]["epoch"] == 1
    for path in (workplace / "checkpoints").glob("*.pt"):
        assert all(value.isfinite().all() for value in weights(path).values()), path
    assert (
        not torch.load("logs/non_finite.pt", weights_only=True)["encoder"]["head.linear.weight"]
        .isfinite()
        .all()
    )
    assert run("--resume", "logs/non_finite.pt") == 2
    assert "the evidence of a run that stopped" in capsys.readouterr().err


def test_a_validation_that_is_not_finite_stops_with_the_utterance_and_keeps_the_best(
    run, capsys, monkeypatch
):
    pool, calls = validation.pool_utterances, []

    def damaged(*arguments, **options):
        pooled = pool(*arguments, **options)
        calls.append(pooled)
        if len(calls) == 2:  # epoch 3, the first that has another backbone
            pooled.pooled[5, 0] = float("inf")
        return pooled

    monkeypatch.setattr(validation, "pool_utterances", damaged)
    assert run() == 2
    message = capsys.readouterr().err
    assert "epoch 3, after step 12: speech/validation/" in message
    assert "its embedding is not finite, and the weights are" in message
    assert Path("logs/non_finite.pt").is_file()
    assert read_checkpoint("checkpoints/last.pt")["state"]["epoch"] == 2
    assert read_checkpoint("checkpoints/best.pt")


def test_a_warm_start_that_is_not_finite_names_the_utterance(run, workplace, capsys, monkeypatch):
    at_speed = warm_start.at_speed

    def poisoned(waveforms, *arguments):
        waveforms = waveforms.clone()
        waveforms[1, 7] = float("nan")
        return at_speed(waveforms, *arguments)

    monkeypatch.setattr(warm_start, "at_speed", poisoned)
    assert run() == 2
    message = capsys.readouterr().err
    assert ".wav: its embedding is not finite, and the weights are; listen to the recording" in message
    assert (workplace / "speech/train" / message.removeprefix("error: ").split(":")[0]).is_file()


def test_a_held_out_loss_that_is_not_finite_stops_the_run(run, capsys, monkeypatch):
    monkeypatch.setattr(held_out, "_score", lambda *_: (torch.tensor([float("nan")] * 3), torch.zeros(3)))
    assert run(data={"held_out_share": 0.25}) == 2
    message = capsys.readouterr().err
    assert "the loss on held-out and training utterances is not finite (held_out: nan" in message


def test_collapsed_embeddings_are_said_and_recorded(run, capsys, monkeypatch):
    project = validation.project

    def collapsed(head, pooled, names):
        embeddings = project(head, pooled, names)
        embeddings[:, :8] = embeddings[0, :8]
        return embeddings

    monkeypatch.setattr(validation, "project", collapsed)
    assert run(stages=[]) == 0
    assert "made: the embeddings have COLLAPSED, those of different speakers are" in capsys.readouterr().out
    (record,) = records("epoch")
    assert record["cosine_between_speakers/made/8"] == pytest.approx(1.0)
    assert record["cosine_between_speakers/made/32"] < 0.999
    assert record["eer/made/8"] == 0.5


def test_no_checkpoint_with_weights_that_are_not_finite_is_resumed(run, capsys):
    assert run(stages=[CONFIG["stages"][0]]) == 0
    content = read_checkpoint("checkpoints/epoch_001.pt")
    content["criterion"]["loss.class_vectors"][1, 2] = float("nan")
    torch.save(content, "broken.pt")
    capsys.readouterr()
    assert run("--resume", "broken.pt", stages=[CONFIG["stages"][0]]) == 2
    message = capsys.readouterr().err
    assert "broken.pt: weights that are NaN or infinite, in loss.class_vectors (1 of 256 numbers)" in message


def test_a_stage_that_does_harm_ends_early_and_hands_the_best_over(run, capsys):
    absurd = {"backbone": 0.03, "head": 1.0, "classifier": 1.0}
    harm = {**CONFIG["stages"][1], "name": "harm", "epochs": 6, "early_stopping_patience": 2, "warmup_epochs": 0,
            "schedule": "constant", "final_rate_share": 0.01, "learning_rate": absurd}  # fmt: skip
    gentle = {**CONFIG["stages"][0], "epochs": 1, "learning_rate": {"head": 1e-12, "classifier": 1e-12}}
    demo = {"pretrained": str(ROOT / "configs/demo_encoder.pt")}  # which knows these speakers' kind
    assert run(model=demo, stages=[harm, gentle]) == 0
    output = capsys.readouterr().out
    assert (
        "stage harm: no new best in 2 validations, it ends early, and the mean EER is worse than at epoch 0"
        in output
    )
    assert "the mean EER has been worse than at epoch 0" in output
    assert "stage head: trains head, classifier, from the weights of epoch 0" in output
    assert "stage harm did not help" in output
    assert [record["epoch"] for record in records("epoch")] == [0, 1, 2, 3]
    kept = {name: read_checkpoint(f"checkpoints/stage_{name}.pt") for name in ("warm_start", "harm")}
    assert_same(kept["warm_start"]["encoder"], kept["harm"]["encoder"])
    best = read_checkpoint("checkpoints/best.pt")
    assert best["state"]["epoch"] == 0
    assert_same(best["encoder"], kept["warm_start"]["encoder"])


POISONED = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, {root!r})
import train
from mrl.training.updater import Updater
update = Updater.update
def poisoned(self, batch, *, run_step, **options):
    if run_step == 2 and dist.get_rank() == 1:
        batch.inputs[0, 10] = float("nan")
    return update(self, batch, run_step=run_step, **options)
Updater.update = poisoned
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_several_processes_take_the_same_decision(workplace, policy):
    config = json.loads(json.dumps(copy.deepcopy(CONFIG)))
    config |= {"stages": [config["stages"][1]], "runtime": {"device": "cpu", "non_finite": policy}}
    Path("run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    Path("poisoned.py").write_text(POISONED.format(root=str(ROOT)), encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "poisoned.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, *torchrun, "--config", "run.yaml"],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    lines = Path("logs/non_finite.txt").read_text().splitlines()
    assert len(lines) == 9  # the files of both processes
    if policy == "skip":
        assert ended.returncode == 0, ended.stderr
        assert "1 of 8 updates were skipped" in ended.stdout
        assert all(value.isfinite().all() for value in weights("checkpoints/last.pt").values())
    else:
        assert ended.returncode != 0
        assert "step 3: the loss is nan; the weights were not changed" in ended.stderr
