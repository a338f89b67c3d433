"""Whole runs: what they leave behind, what they promise, and how they end when something is wrong."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import mrl
import train
from mrl.audio import read
from mrl.data.trials import read_trials
from mrl.errors import CheckpointError
from mrl.evaluation.metrics import equal_error_rate
from mrl.models.checkpoint_format import read_checkpoint
from mrl.models.pretrained import load_released
from mrl.training import live_weights, scoreboard, trainer, validation
from mrl.training.checkpoint import CheckpointFolder
from mrl.training.selection import Rank
from mrl.training.updater import Updater
from tests.integration.conftest import CONFIG


def same_weights(a: Path, b: Path) -> None:
    first, second = read_checkpoint(a), read_checkpoint(b)
    for part in ("encoder", "criterion"):
        assert first[part].keys() == second[part].keys()
        for key, value in first[part].items():
            assert torch.equal(value, second[part][key]), f"{part}.{key}"


def records(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "time"} for line in lines]


def prefer_epoch(best: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the epoch called ``best`` rank before all others, whatever it scores."""
    record = trainer.Trainer._record

    def record_with_rank(self, *arguments, **extra):
        epoch = self.state.epoch
        monkeypatch.setattr(
            scoreboard, "rank", lambda *_: Rank(0.0, abs(epoch - best) + 0.01 * (epoch > best))
        )
        return record(self, *arguments, **extra)

    monkeypatch.setattr(trainer.Trainer, "_record", record_with_rank)


TIMINGS = {"train/utterances_per_second", "train/data_wait_share", "evaluation_seconds"}


def numbers(folder: Path) -> list[dict]:
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in records(folder)]


def test_a_run_leaves_everything_that_it_promises(run, workplace, capsys):
    assert run(logging={"plots": True, "tensorboard": True}) == 0
    names = {path.name for path in (workplace / "logs").iterdir()}
    assert {"training.log", "metrics.jsonl", "config.yaml", "summary.json", "tensorboard", "trials"} <= names
    assert {"loss.png", "eer.png", "eer_by_dimension.png"} <= names
    checkpoints = {path.name for path in (workplace / "checkpoints").iterdir()}
    kept = {f"stage_{name}.pt" for name in ("warm_start", "head", "full")}
    kept |= {"best.pt", "last.pt", "previous.pt", *(f"epoch_{n:03d}.pt" for n in (1, 2, 3, 4))}
    assert checkpoints - {".lock"} == kept
    output = capsys.readouterr().out
    assert "stage head: trains head, classifier, from the weights of epoch 0; 2 epochs of 4 steps" in output
    assert "summary (mean over the trial lists)" in output

    steps = [record for record in records(workplace / "logs") if record["kind"] == "step"]
    assert [record["step"] for record in steps] == list(range(1, 17))
    for key in ("loss", "loss_8", "loss_16", "loss_32", "margin", "gradient_norm", "utterances_per_second"):
        assert all(np.isfinite(record[f"train/{key}"]) for record in steps)
    assert "train/learning_rate_backbone" in steps[-1]
    assert "train/learning_rate_backbone" not in steps[0]
    total = steps[0]["train/loss_8"] + 0.5 * steps[0]["train/loss_16"] + steps[0]["train/loss_32"]
    assert steps[0]["train/loss"] == pytest.approx(total, rel=1e-5)
    epochs = [record for record in records(workplace / "logs") if record["kind"] == "epoch"]
    assert [record["epoch"] for record in epochs] == [0, 1, 2, 3, 4]
    for dim in (8, 16, 32):
        assert f"eer/made/{dim}" in epochs[0]
        assert f"min_dcf_0.01/made/{dim}" in epochs[0]


def test_epoch_0_scores_what_the_released_model_scores(run, workplace):
    assert run(stages=[]) == 0
    trials = read_trials(workplace / "logs/trials/made.txt", workplace / "speech/validation")
    released, encoder = load_released("released.pt"), mrl.load_encoder("checkpoints/best.pt")
    embeddings, ours = [], []
    for utterance in trials.utterances:
        ours.append(encoder.embed_file(trials.root / utterance))
        with torch.no_grad():
            waveform = torch.from_numpy(read(trials.root / utterance))[None]
            embeddings.append(torch.nn.functional.normalize(released(waveform)[0], dim=0))
    expected = (torch.stack(embeddings)[trials.enrolment] * torch.stack(embeddings)[trials.test]).sum(1)
    scores = (torch.stack(ours)[trials.enrolment] * torch.stack(ours)[trials.test]).sum(1)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    summary = json.loads((workplace / "logs/summary.json").read_text())
    rate = equal_error_rate(expected.numpy(), trials.labels).rate
    assert summary["rows"][0]["eer"]["32"] == pytest.approx(rate, abs=1e-3)
    assert summary["reference_full_size_eer"] == summary["rows"][0]["eer"]["32"]


@pytest.mark.parametrize("best", [1, 3])
@pytest.mark.parametrize("source", ["epoch_001", "epoch_002", "epoch_003", "last", "best"])
def test_a_resumed_run_is_the_uninterrupted_one(run, workplace, monkeypatch, source, best):
    """Whichever epoch is the best: one of the first stage, or one in the middle of the second."""
    prefer_epoch(best, monkeypatch)
    assert run() == 0
    assert read_checkpoint("checkpoints/best.pt")["state"]["epoch"] == best
    straight = workplace / "straight"
    shutil.copytree(workplace / "checkpoints", straight)
    uninterrupted = numbers(workplace / "logs")
    shutil.rmtree(workplace / "checkpoints")
    assert run("--resume", str(straight / f"{source}.pt")) == 0
    if source != "last":
        same_weights(straight / "last.pt", workplace / "checkpoints/last.pt")
        same_weights(straight / "best.pt", workplace / "checkpoints/best.pt")
    assert numbers(workplace / "logs") == uninterrupted


def test_the_number_of_workers_changes_nothing(run, workplace):
    assert run() == 0
    shutil.move(workplace / "checkpoints", workplace / "without")
    assert run(data={"train": "speech/train", "workers": 2}) == 0
    same_weights(workplace / "without/last.pt", workplace / "checkpoints/last.pt")


@pytest.mark.slow
def test_a_compiled_run_goes_through_stages_of_other_crops(run):
    assert run(runtime={"compile": True}) == 0


def test_a_stage_starts_from_the_best_and_harm_is_not_kept(run, workplace, capsys, monkeypatch):
    """The first stage is made to look harmful; the second starts from epoch 0, and best.pt is epoch 0."""
    scored: list[torch.Tensor] = []
    honest = trainer.full_size_eer

    def worse_after_epoch_0(results):
        return honest(results) + (0.1 if len(scored) > 1 else 0.0)

    project = validation.project

    def watched(head, pooled, names):
        scored.append(head.linear.weight.detach().clone())
        return project(head, pooled, names)

    monkeypatch.setattr(validation, "project", watched)
    monkeypatch.setattr("mrl.training.selection.full_size_eer", worse_after_epoch_0)
    entered: list[torch.Tensor] = []
    enter = live_weights.enter_stage
    monkeypatch.setattr(
        live_weights,
        "enter_stage",
        lambda e, c, s: (entered.append(e.head.linear.weight.detach().clone()), enter(e, c, s)),
    )
    assert run(checkpoints={"full_size_tolerance": 0.0}) == 0
    assert not torch.equal(scored[2], scored[0])
    assert torch.equal(entered[1], scored[0])
    output = capsys.readouterr().out
    assert "stage head did not help" in output
    assert "its weights are not used" in output
    assert "best.pt is epoch 0" in output
    assert torch.equal(read_checkpoint("checkpoints/best.pt")["encoder"]["head.linear.weight"], scored[0])


def test_early_stopping_ends_the_stage_alone(run, capsys, monkeypatch):
    monkeypatch.setattr("mrl.training.selection.mean_eer", lambda results: 0.5)
    stages = [
        {"name": name, "train": ["head"], "epochs": 4, "batch_size": 16, "crop_seconds": 0.5,
         "learning_rate": {"head": 1e-4, "classifier": 1e-4}, "early_stopping_patience": 2}
        for name in ("one", "two")
    ]  # fmt: skip
    assert run(stages=stages) == 0
    output = capsys.readouterr().out
    assert "stage one: no new best in 2 validations, it ends early" in output
    assert "stage two: no new best in 2 validations, it ends early" in output


def test_a_random_head_is_held_to_the_released_model(run, workplace):
    assert run(model={"head_init": "random"}, stages=[]) == 0
    released_run = json.loads((workplace / "logs/summary.json").read_text())
    assert run(stages=[]) == 0
    rotated_run = json.loads((workplace / "logs/summary.json").read_text())
    assert released_run["reference_full_size_eer"] == pytest.approx(
        rotated_run["reference_full_size_eer"], abs=1e-3
    )


def test_dry_run_prints_the_plan_and_trains_nothing(run, workplace, capsys):
    assert run("--dry-run") == 0
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines() if line.startswith(("head ", "full "))]
    assert [row[0] for row in rows] == ["head", "full"]
    assert "2 x 4" in output
    assert "8 in 2" in output
    assert "nothing was trained" in output
    assert not (workplace / "checkpoints").exists()


def test_overfit_learns_by_heart(run, capsys):
    assert run("--overfit", "6") == 0
    output = capsys.readouterr().out
    assert output.count("near zero") == 2
    assert "NOT" not in output


def test_overfit_notices_a_loop_that_does_not_learn(run, capsys, monkeypatch):
    monkeypatch.setattr("mrl.training.overfit.STEPS", 10)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *a, **k: None)
    assert run("--overfit", "6") == 2
    assert "did not bring the loss below" in capsys.readouterr().err


def test_everything_missing_is_named_at_once(run, workplace, capsys):
    shutil.rmtree(workplace / "speech")
    (workplace / "released.pt").unlink()
    lists = [{"name": "o", "root": "vox1/wav", "trials": "vox1/list.txt"}]
    assert run(validation={"lists": lists}, data={"noise": "musan"}) == 2
    message = capsys.readouterr().err
    for expected in (
        "model.pretrained: released.pt does not exist",
        "data.train: speech/train does not exist",
        "data.noise: musan does not exist",
        "validation.lists.o.root: vox1/wav does not exist",
        "validation.lists.o.trials: vox1/list.txt does not exist",
        "configs/demo.yaml",
    ):
        assert expected in message
    assert "5 problems" in message
    assert "Traceback" not in message
    assert not (workplace / "logs").exists()


def test_a_released_model_by_its_name(run, workplace, monkeypatch, capsys):
    monkeypatch.setenv("MRL_HOME", str(workplace / "home"))
    (workplace / "home").mkdir()
    shutil.move(workplace / "released.pt", workplace / "home/redimnet-b0-vox2-ptn.pt")
    assert run(model={"pretrained": "redimnet-b0-vox2-ptn"}, stages=[]) == 0
    assert run(model={"pretrained": "redimnet-b0-vox-ptn"}, stages=[]) == 2
    assert "did you mean redimnet-b0-vox2-ptn" in capsys.readouterr().err


def test_a_speaker_on_both_sides_is_an_error(run, workplace, capsys):
    shutil.copytree(workplace / "speech/train/demo0003", workplace / "speech/validation/demo0003")
    assert run() == 2
    assert "1 speakers are in data.train" in capsys.readouterr().err


def test_held_out_speakers_are_not_trained_on(run, workplace):
    assert run(validation={"lists": [{"name": "held", "hold_out_speakers": 3}]}, stages=[]) == 0
    trained = set(read_checkpoint("checkpoints/best.pt")["speakers"])
    trials = read_trials(workplace / "logs/trials/held.txt", workplace / "speech/train")
    assert len(trained) == 5
    assert len(trials.speakers()) == 3
    assert not trained & trials.speakers()


def test_one_damaged_file_is_named_and_replaced(run, workplace, capsys):
    (workplace / "speech/train/demo0001/session00/000.wav").write_bytes(b"RIFF")
    assert run(data={"max_unreadable_share": 0.2}) == 0
    output = capsys.readouterr().out
    assert "demo0001/session00/000.wav" in output
    assert (
        "1 of 32 training utterances could not be read and were replaced: 1 cut short or not audio" in output
    )


def test_too_many_damaged_files_stop_the_run(run, workplace, capsys):
    for path in sorted((workplace / "speech/train").rglob("*.wav"))[::4]:
        path.write_bytes(b"")
    assert run(data={"max_unreadable_share": 0.1}) == 2
    assert "more than data.max_unreadable_share (0.1) allows" in capsys.readouterr().err


def test_a_missing_trial_utterance_is_an_error(run, workplace, capsys):
    assert run(stages=[]) == 0
    listed = (workplace / "logs/trials/made.txt").read_text().split()[1]
    (workplace / "speech/validation" / listed).unlink()
    shutil.copy(workplace / "logs/trials/made.txt", workplace / "list.txt")
    lists = [{"name": "o", "root": "speech/validation", "trials": "list.txt"}]
    assert run(validation={"lists": lists}, stages=[]) == 2
    assert listed in capsys.readouterr().err


def test_non_finite_numbers_stop_with_evidence(run, workplace, capsys, monkeypatch):
    update = Updater.update

    def poisoned(self, batch, *, run_step, **options):
        if run_step == 5:
            waveforms = batch.inputs.clone()
            waveforms[2, 100] = float("nan")
            batch = batch._replace(inputs=waveforms)
        return update(self, batch, run_step=run_step, **options)

    monkeypatch.setattr(Updater, "update", poisoned)
    assert run() == 2
    message = capsys.readouterr().err
    assert "step 6: the loss is nan; the weights were not changed" in message
    evidence = torch.load(workplace / "logs/non_finite.pt", weights_only=True)
    assert len(evidence["files"]) == 8
    assert (workplace / "speech/train" / evidence["files"][0]).is_file()
    title, *files = (workplace / "logs/non_finite.txt").read_text().splitlines()
    assert title == "# step 6, stopped: the loss is nan"
    assert files == evidence["files"]
    assert all(value.isfinite().all() for value in evidence["encoder"].values())


def test_a_changed_configuration_does_not_resume_silently(run, workplace, capsys):
    assert run() == 0
    assert run("--resume", "checkpoints/last.pt", loss={"margin": 0.3}) == 2
    message = capsys.readouterr().err
    assert "loss.margin: the run has 0.2, the configuration 0.3" in message
    assert "--allow-config-change" in message
    assert run("--resume", "checkpoints/epoch_002.pt", "--allow-config-change", loss={"margin": 0.3}) == 0
    harmless = {"logging": {"every_steps": 3}}
    assert run("--resume", "checkpoints/last.pt", loss={"margin": 0.3}, **harmless) == 0


def test_resume_refuses_other_lists_a_new_teacher_and_evidence(run, workplace, capsys):
    assert run(stages=[CONFIG["stages"][0]]) == 0
    lists = [{"name": "made", "root": "speech/validation"}, {"name": "more", "root": "speech/validation"}]
    resume = ["--resume", "checkpoints/epoch_001.pt", "--allow-config-change"]
    assert run(*resume, stages=[CONFIG["stages"][0]], validation={"lists": lists}) == 2
    assert "validation list more is not the one of the run" in capsys.readouterr().err
    taught = [{**CONFIG["stages"][0], "teacher_weight": 1.0}]
    assert run(*resume, stages=taught) == 2
    assert "the run has no teacher" in capsys.readouterr().err
    evidence = {**read_checkpoint("checkpoints/last.pt"), "files": ["a.wav"], "error": "the loss is nan"}
    torch.save(evidence, workplace / "logs/non_finite.pt")
    assert run("--resume", "logs/non_finite.pt", stages=[CONFIG["stages"][0]]) == 2
    assert "the evidence of a run that stopped" in capsys.readouterr().err


def test_a_shortened_stage_is_scored_before_it_ends(run, workplace):
    stages = [{**CONFIG["stages"][0], "epochs": 4}]
    validation = {"every_epochs": 4, "lists": CONFIG["validation"]["lists"]}
    assert run(stages=stages, validation=validation) == 0
    shorter = [{**stages[0], "epochs": 2}]
    resume = ["--resume", "checkpoints/epoch_003.pt", "--allow-config-change"]
    assert run(*resume, stages=shorter, validation=validation) == 0
    epochs = [record["epoch"] for record in records(workplace / "logs") if record["kind"] == "epoch"]
    assert epochs == [0, 3]


def test_resume_refuses_another_corpus_and_other_files(run, workplace, capsys):
    assert run(stages=[]) == 0
    shutil.rmtree(workplace / "speech/train/demo0002")
    assert run("--resume", "checkpoints/last.pt", stages=[]) == 2
    assert "its class vectors are of 8 speakers" in capsys.readouterr().err
    assert run("--resume", "released.pt") == 2
    assert "belongs in model.pretrained" in capsys.readouterr().err


def test_an_earlier_run_in_the_same_folders_is_kept(run, workplace, capsys):
    assert run(stages=[]) == 0
    before = (workplace / "checkpoints/best.pt").read_bytes()
    assert run(stages=[], seed=9) == 0
    assert (workplace / "checkpoints/earlier_1/best.pt").read_bytes() == before
    assert (workplace / "logs/metrics.1.jsonl").is_file()
    assert "checkpoints of an earlier run are kept in checkpoints/earlier_1" in capsys.readouterr().out


def test_a_run_without_any_standard_stream_trains(run, workplace):
    assert run("--dry-run") == 0  # which writes run.yaml
    program = Path(train.__file__)
    command = [sys.executable, str(program), "--config", "run.yaml", "--set", "data.workers=1"]
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    assert subprocess.run(shell, cwd=workplace, timeout=300, check=False).returncode == 0
    assert (workplace / "checkpoints/best.pt").is_file()
    assert "best.pt is epoch " in (workplace / "logs/training.log").read_text(encoding="utf-8")


def test_a_best_file_that_is_lost_comes_back_with_its_weights(run, workplace, monkeypatch):
    """last.pt carries the best weights along, so that losing best.pt loses no accuracy."""
    prefer_epoch(1, monkeypatch)
    assert run() == 0
    last = read_checkpoint("checkpoints/last.pt")
    assert last["best"]["epoch"] != last["state"]["epoch"]
    kept = read_checkpoint("checkpoints/best.pt")
    (workplace / "checkpoints/best.pt").unlink()
    assert run("--resume", "checkpoints/last.pt") == 0
    for key, value in read_checkpoint("checkpoints/best.pt")["encoder"].items():
        assert torch.equal(value, kept["encoder"][key])
    assert evaluate.main(["--checkpoint", "checkpoints/best.pt"]) == 0
    assert run("--resume", "checkpoints/best.pt") == 2


def test_a_best_file_that_could_not_be_written_is_written_later(run, workplace, capsys, monkeypatch):
    prefer_epoch(1, monkeypatch)
    save = CheckpointFolder.save

    def full_at_epoch_1(self, state, *, epoch, is_best):
        if epoch == 1:
            raise CheckpointError("no space left")
        save(self, state, epoch=epoch, is_best=is_best)

    monkeypatch.setattr(CheckpointFolder, "save", full_at_epoch_1)
    assert run() == 0
    assert "no space left" in capsys.readouterr().out
    best, last = read_checkpoint("checkpoints/best.pt"), read_checkpoint("checkpoints/last.pt")
    for key, value in last["best"]["weights"]["encoder"].items():
        assert torch.equal(best["encoder"][key], value)


@pytest.mark.parametrize("epoch", [3, 4], ids=["before the last epoch", "after it"])
def test_a_best_file_that_is_deleted_meanwhile_is_written_again(run, workplace, capsys, monkeypatch, epoch):
    prefer_epoch(1, monkeypatch)
    save, best_file = CheckpointFolder.save, workplace / "checkpoints/best.pt"

    def delete_after(self, state, *, is_best, **which):
        save(self, state, is_best=is_best, **which)
        if which["epoch"] == epoch:
            best_file.unlink()

    monkeypatch.setattr(CheckpointFolder, "save", delete_after)
    assert run() == 0
    assert capsys.readouterr().out.count("best.pt is gone; it is written again, with the best weights") == 1
    best, last = read_checkpoint(best_file), read_checkpoint("checkpoints/last.pt")
    for key, value in last["best"]["weights"]["encoder"].items():
        assert torch.equal(best["encoder"][key], value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"loss": {"subcenters": 3}},
            r"loss\.class_vectors is \[8, 32\] in the checkpoint, \[24, 32\] in the configuration; ",
        ),
        ({"loss": {"type": "sphereface2"}}, r"the checkpoint has no loss\.\S+ \["),
    ],
    ids=["sub-centres", "sphereface2"],
)
def test_class_vectors_of_another_loss_are_refused_in_one_line(run, capsys, changes, words):
    assert run() == 0
    capsys.readouterr()
    assert run("--resume", "checkpoints/epoch_003.pt", "--allow-config-change", **changes) == 2
    message = capsys.readouterr().err
    assert message.startswith(
        "error: checkpoints/epoch_003.pt: its class vectors do not fit the configuration: "
    )
    assert re.search(words, message), message
    assert message.count("\n") == 1
    assert len(message) < 500


def test_adapters_of_another_rank_are_refused_in_one_line(run, capsys):
    def stages(rank):
        return [{**CONFIG["stages"][1], "lora": {"rank": rank}}]

    assert run(stages=stages(2)) == 0
    capsys.readouterr()
    assert run("--resume", "checkpoints/epoch_001.pt", "--allow-config-change", stages=stages(3)) == 2
    message = capsys.readouterr().err
    assert "the state of stage full does not fit the changed configuration (" in message
    shapes = (
        r"\.weight is \[2, .*\] in the checkpoint, \[3, .*\] in the configuration, .*, and \d+ more\); resume"
    )
    assert re.search(shapes, message), message
    assert message.count("\n") == 1
    assert len(message) < 700


def test_fewer_epochs_than_done_end_the_stage(run):
    assert run() == 0
    stages = [{**stage, "epochs": 1} for stage in CONFIG["stages"]]
    assert run("--resume", "checkpoints/epoch_003.pt", "--allow-config-change", stages=stages) == 0
    assert read_checkpoint("checkpoints/best.pt")["best"]["epoch"] <= 3


def test_changed_rates_count_in_the_middle_of_a_stage(run, workplace):
    assert run() == 0
    stages = copy.deepcopy(CONFIG["stages"])
    stages[0]["learning_rate"] = {"head": 1e-6, "classifier": 1e-6}
    assert run("--resume", "checkpoints/epoch_001.pt", "--allow-config-change", stages=stages) == 0
    step = next(r for r in records(workplace / "logs") if r["step"] == 5)
    assert step["train/learning_rate_head"] <= 1e-6


def test_a_changed_list_is_not_scored_as_the_runs_own(run, workplace, capsys):
    lists = [{"name": "held", "hold_out_speakers": 3}]
    assert run(validation={"lists": lists}, stages=[]) == 0
    made = (workplace / "logs/trials/held.txt").read_bytes()
    assert run("--dry-run", validation={"lists": lists}, seed=8) == 0
    assert (workplace / "logs/trials/held.txt").read_bytes() == made
    assert run(validation={"lists": lists}, stages=[], seed=8) == 0
    capsys.readouterr()
    assert evaluate.main(["--checkpoint", "checkpoints/earlier_1/best.pt"]) == 2
    assert "not the list held that this checkpoint was validated on" in capsys.readouterr().err


def test_a_start_that_fails_leaves_the_logs_of_the_run_before(run, workplace):
    assert run(stages=[]) == 0
    before = (workplace / "logs/metrics.jsonl").read_bytes()
    (workplace / "empty").mkdir()
    assert run(data={"noise": "empty"}) == 2
    assert (workplace / "logs/metrics.jsonl").read_bytes() == before
    assert not (workplace / "logs/metrics.1.jsonl").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--overfit", "1"], ["--dry-run", "--overfit", "4"], ["--resume", "x.pt", "--dry-run"], ["--conf", "x"]],
)
def test_arguments_that_do_not_go_together(run, arguments):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
