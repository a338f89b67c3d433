"""evaluate.py on a small run: what it prints, writes and saves, and what it says of mistakes."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import mrl
from mrl.audio import read
from mrl.data.trials import read_trials
from mrl.errors import CheckpointError
from mrl.evaluation.metrics import equal_error_rate
from mrl.evaluation.report_json import read_report
from mrl.evaluation.request import PARTS
from mrl.evaluation.verification import verify

SMALL = [
    "--set=evaluation.bootstrap=50",
    "--set=evaluation.search_enrolled=200",
    "--set=evaluation.as_norm_top=4",
]
BEST = ["--checkpoint", "checkpoints/best.pt"]
DIMS = (8, 16, 32)


@pytest.fixture
def finished(run, workplace, capsys) -> Path:
    """A working directory in which a run has finished."""
    assert run() == 0
    capsys.readouterr()
    return workplace


def report(folder: str = "logs/evaluation"):
    return read_report(Path(folder) / "report.json")


def test_it_scores_what_the_run_scored(finished, capsys):
    summary = json.loads(Path("logs/summary.json").read_text())
    assert evaluate.main(BEST + SMALL) == 0
    (made,) = report().lists
    assert [prefix.dim for prefix in made.prefixes] == list(DIMS)
    best = summary["rows"][-1]["eer"]
    for prefix in made.prefixes:
        assert prefix.eer == pytest.approx(best[str(prefix.dim)], abs=1e-12)
        assert prefix.interval.low <= prefix.interval.high
        assert made.curve[prefix.dim - 1] == pytest.approx(prefix.eer, abs=1e-12)
    assert len(made.curve) == 32
    assert not made.baselines
    assert made.recommendation
    output = capsys.readouterr().out
    assert "Error rates" in output
    assert made.recommendation in " ".join(output.split())
    assert {"report.json", "report.csv", "report.html"} == {
        path.name for path in Path("logs/evaluation").iterdir()
    }


def test_other_lists_prefixes_and_places_can_be_asked_for(finished):
    shutil.copy("logs/trials/made.txt", "again.txt")
    lists = ["--trials", "logs/trials/made.txt", "--root", "speech/validation", "--trials", "again.txt", "--root",
             "speech/validation"]  # fmt: skip
    assert evaluate.main([*BEST, *SMALL, *lists, "--dims", "32", "4", "--output", "there", "--scores"]) == 0
    found = report("there")
    assert [item.name for item in found.lists] == ["made", "again"]
    assert [prefix.dim for prefix in found.lists[1].prefixes] == [4, 32]
    assert found.lists[0].prefixes == found.lists[1].prefixes
    with Path("there/report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["list"] for row in rows} == {"made", "again"}
    trials = read_trials("again.txt", "speech/validation")
    lines = [line.split() for line in Path("there/scores/again_4.txt").read_text().splitlines()]
    assert len(lines) == len(trials)
    encoder = mrl.load_encoder("checkpoints/best.pt")
    first, second = (encoder.embed_file(trials.root / path, dim=4) for path in lines[0][1:3])
    assert float(lines[0][0]) == pytest.approx(float(first @ second), abs=1e-5)
    assert (lines[0][3] == "target") == bool(trials.labels[0])
    result = verify(encoder, trials, [4, 32])
    assert [prefix.eer for prefix in result.prefixes] == pytest.approx(
        [p.eer for p in found.lists[0].prefixes]
    )


def test_everything_at_once(finished, capsys):
    assert evaluate.main([*BEST, *SMALL, "--with", "all", "--dims", "4", *map(str, DIMS)]) == 0
    found = report()
    (made,) = found.lists
    names = [baseline.name for baseline in made.baselines]
    assert names[0] == "released, full size"
    assert {"truncation", "random projection", "PCA", "LDA"} <= set(names)
    assert names[-3:] == ["warm start", "stage head", "stage full"]
    by_name = {
        baseline.name: dict(zip(baseline.dims, baseline.eers, strict=True)) for baseline in made.baselines
    }
    history = [json.loads(line) for line in Path("logs/metrics.jsonl").read_text().splitlines()]
    epoch_0 = next(record for record in history if record["kind"] == "epoch")
    for dim in DIMS:
        assert by_name["warm start"][dim] == pytest.approx(epoch_0[f"eer/made/{dim}"], abs=1e-12)
    assert [prefix.dim for prefix in made.normalised] == [4, *DIMS]
    assert [prefix.dim for prefix in made.centred] == [4, *DIMS]
    assert made.durations.rows[-1] == "full"
    assert made.durations.eers[-1] == pytest.approx([prefix.eer for prefix in made.prefixes])
    assert made.precisions.rows[0] == "float32"
    assert found.search[0].method == "exact"
    assert all(0.0 <= point.recall <= 1.0 for point in found.search[1:])
    assert len(found.search) > 1
    assert set(found.seconds) == {"network", "scoring", "search"}
    html = Path("logs/evaluation/report.html").read_text()
    assert "stage full" in html
    assert Path("checkpoints/best.cohort.npz").exists()


def test_the_decisions_are_used_by_the_encoder(finished):
    a, b, c = (sorted((finished / "speech/validation").rglob("*.wav"))[item] for item in (0, 1, -1))
    assert mrl.load_encoder("checkpoints/best.pt").decisions is None
    with pytest.raises(CheckpointError, match=r"evaluate\.py"):
        mrl.load_encoder("checkpoints/best.pt").verify(a, b)
    assert evaluate.main([*BEST, *SMALL, "--set=evaluation.false_accept_rates=[0.2]"]) == 0
    encoder = mrl.load_encoder("checkpoints/best.pt")
    threshold = report().lists[0].prefixes[1].thresholds["far_0.2"].value
    for other in (b, c):
        score, decision = encoder.verify(a, other, dim=16, false_accept_rate=0.2)
        expected = float(encoder.embed_file(a, dim=16) @ encoder.embed_file(other, dim=16))
        assert score == pytest.approx(expected, abs=1e-5)
        assert decision == (score >= threshold)
    same, _ = encoder.verify(torch.from_numpy(read(a)), read(a), dim=8, false_accept_rate=0.2)
    assert same == pytest.approx(1.0, abs=1e-5)
    shutil.copy("checkpoints/best.decisions.json", "checkpoints/epoch_001.decisions.json")
    with pytest.raises(CheckpointError, match="other"):
        mrl.load_encoder("checkpoints/epoch_001.pt").verify(a, b, dim=8, false_accept_rate=0.2)


def test_a_kaldi_list_and_enrolled_models(finished):
    trials = read_trials("logs/trials/made.txt", "speech/validation")
    kinds = {True: "target", False: "nontarget"}
    kaldi = [f"{trial.enrolment} {trial.test} {kinds[trial.is_target]}" for trial in trials.trials()]
    Path("kaldi.txt").write_text("\n".join(kaldi))
    speakers = sorted({path.split("/")[0] for path in trials.utterances})
    own = {
        speaker: [path for path in trials.utterances if path.startswith(f"{speaker}/")]
        for speaker in speakers
    }
    Path("map.txt").write_text("".join(f"m-{s} {' '.join(paths[:2])}\n" for s, paths in own.items()))
    lines = [f"m-{s} {paths[-1]} {kinds[s == other]}" for s in speakers for other, paths in own.items()]
    Path("models.txt").write_text("\n".join(lines) + "\n")
    lists = (
        "evaluation.lists=[{name: kaldi, trials: kaldi.txt, root: speech/validation},"
        "{name: models, trials: models.txt, root: speech/validation, enrolment_map: map.txt}]"
    )
    assert evaluate.main([*BEST, *SMALL, "--set", lists]) == 0
    kaldi_report, models = report().lists
    assert models.num_trials == len(speakers) ** 2
    encoder = mrl.load_encoder("checkpoints/best.pt")
    unit = {path: encoder.embed_file(Path("speech/validation") / path) for path in trials.utterances}
    enrolled = {s: (unit[paths[0]] + unit[paths[1]]) / 2 for s, paths in own.items()}
    scores = [
        [float(torch.cosine_similarity(enrolled[s][:16], unit[p[-1]][:16], 0)) for p in own.values()]
        for s in speakers
    ]
    labels = np.eye(len(speakers), dtype=bool)
    assert models.prefixes[1].eer == pytest.approx(
        equal_error_rate(np.ravel(scores), labels.ravel()).rate, abs=1e-9
    )
    assert evaluate.main([*BEST, *SMALL]) == 0
    assert [p.eer for p in kaldi_report.prefixes] == [p.eer for p in report().lists[0].prefixes]


def test_a_cohort_holds_no_speaker_of_a_list(finished, capsys):
    """The training speakers themselves make the list."""
    wavs = sorted((finished / "speech/train").rglob("*.wav"))
    paths = [path.relative_to(finished / "speech/train").as_posix() for path in wavs[:8]]
    lines = [f"{int(a.split('/')[0] == b.split('/')[0])} {a} {b}" for a in paths for b in paths if a < b]
    Path("own.txt").write_text("\n".join(lines))
    asked = [*BEST, *SMALL, "--trials", "own.txt", "--root", "speech/train"]
    assert evaluate.main(asked) == 0
    assert evaluate.main([*asked, "--with", "cohort"]) == 2
    assert "demo0000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--checkpoint", "none.pt"], "none.pt: no such file"),
        (["--checkpoint", "released.pt"], "not a checkpoint of this project"),
        ([*BEST, "--dims", "64"], "64 is not a prefix: the embedding has 32"),
        ([*BEST, "--trials", "no.txt", "--root", "speech"], "no.txt"),
        ([*BEST, "--device", "cuda"], "no CUDA GPU"),
        ([*BEST, "--set", "evaluation.bootstap=3"], "bootstrap"),
        ([*BEST, "--set", "evaluation.confidence=2"], "evaluation.confidence"),
        ([*BEST, "--dims", "32", "--with", "search"], "two prefixes"),
        ([*BEST, "--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_it_says_what_is_wrong(run, capsys, arguments, expected):
    if expected == "no CUDA GPU" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert run(stages=[]) == 0
    capsys.readouterr()
    assert evaluate.main(arguments) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert "Traceback" not in message


@pytest.mark.parametrize("part", PARTS)
def test_each_part_works_alone(finished, part):
    assert evaluate.main([*BEST, *SMALL, "--set=evaluation.bootstrap=0", "--with", part]) == 0
    made = report().lists[0]
    assert np.isfinite([prefix.eer for prefix in made.prefixes]).all()
    assert all(prefix.interval is None for prefix in made.prefixes)
    done = {
        "baselines": bool(made.baselines),
        "cohort": bool(made.normalised and made.centred),
        "grids": bool(made.durations and made.precisions),
        "cascade": bool(made.cascade),
        "search": bool(report().search),
    }
    assert done == {name: name == part for name in PARTS}


def test_training_audio_that_is_gone_is_an_error_where_it_is_needed(finished, capsys):
    shutil.rmtree("speech/train")
    assert evaluate.main([*BEST, *SMALL]) == 0
    assert evaluate.main([*BEST, *SMALL, "--with", "cohort"]) == 2
    assert "speech/train" in capsys.readouterr().err


def test_decisions_of_another_list_are_kept_unless_they_are_to_be_replaced(finished, capsys):
    trials = Path("logs/trials/made.txt").read_text().splitlines()
    Path("fewer.txt").write_text("\n".join(trials[: len(trials) - 3]))
    fewer = ["--trials", "fewer.txt", "--root", "speech/validation"]
    assert evaluate.main([*BEST, *SMALL, "--dims", "8", "32"]) == 0
    assert evaluate.main([*BEST, *SMALL, *fewer]) == 0
    assert "stays as it is, measured on made" in " ".join(capsys.readouterr().out.split())
    bundle = mrl.load_encoder("checkpoints/best.pt").decisions
    assert (bundle.measured_on.name, [prefix.dim for prefix in bundle.prefixes]) == ("made", [8, 32])
    assert evaluate.main([*BEST, *SMALL, "--dims", "4", "8"]) == 0  # the same list: what it lacks is added
    bundle = mrl.load_encoder("checkpoints/best.pt").decisions
    assert [prefix.dim for prefix in bundle.prefixes] == [4, 8, 32]
    assert evaluate.main([*BEST, *SMALL, *fewer, "--replace-decisions"]) == 0
    assert mrl.load_encoder("checkpoints/best.pt").decisions.measured_on.name == "fewer"


def test_what_can_be_refused_is_refused_before_anything_is_embedded(finished, capsys, monkeypatch):
    monkeypatch.setattr("mrl.evaluation.session.pool_utterances", lambda *_, **__: pytest.fail("embedded"))
    first, second = (trial for trial in Path("logs/trials/made.txt").read_text().splitlines()[:2])
    Path("wrong.txt").write_text(f"{first}\n{1 - int(second[0])}{second[1:]}\n")
    assert evaluate.main([*BEST, "--trials", "wrong.txt", "--root", "speech/validation"]) == 2
    assert evaluate.main([*BEST, "--dims", "32", "--with", "cascade"]) == 2
    assert "two prefixes" in capsys.readouterr().err
    shutil.rmtree("speech/train")
    assert evaluate.main([*BEST, "--with", "baselines"]) == 2


@pytest.mark.parametrize("output", ["taken", "taken/below", "nowhere/below"])
def test_a_report_that_could_not_be_written_is_refused_before_anything_is_embedded(
    finished, capsys, monkeypatch, output
):
    monkeypatch.setattr("mrl.evaluation.session.pool_utterances", lambda *_, **__: pytest.fail("embedded"))
    Path("taken").touch()
    Path("nowhere").symlink_to("/nonexistent/x")
    assert evaluate.main([*BEST, *SMALL, "--output", output]) == 2
    message = capsys.readouterr().err
    assert message.startswith(
        f"error: {output}: the report cannot be written: {finished}/{output.split('/')[0]} is "
    )
    assert message.endswith("name another folder with --output\n")


def test_a_checkpoint_beside_which_nothing_can_be_written_is_reported_on(finished, capsys, monkeypatch):
    folder, access = Path("checkpoints"), os.access
    before = set(folder.iterdir())
    # For root everything is permitted.
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != folder.absolute() and access(path, mode)
    )
    assert evaluate.main([*BEST, *SMALL]) == 0
    said = capsys.readouterr().out
    problem = "no decisions can be saved beside checkpoints/best.pt: no permission to write into "
    assert said.count(problem) == 2
    assert said.index(problem) < said.index("Error rates") < said.rindex(problem)
    assert report().lists
    assert set(folder.iterdir()) == before
    monkeypatch.setattr("mrl.evaluation.session.pool_utterances", lambda *_, **__: pytest.fail("embedded"))
    assert evaluate.main([*BEST, *SMALL, "--replace-decisions"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {problem}")


def test_speakers_that_were_trained_on_are_said(finished, capsys):
    wavs = sorted((finished / "speech/train").rglob("*.wav"))
    paths = [path.relative_to(finished / "speech/train").as_posix() for path in wavs[:8]]
    lines = [f"{int(a.split('/')[0] == b.split('/')[0])} {a} {b}" for a in paths for b in paths if a < b]
    Path("own.txt").write_text("\n".join(lines))
    assert evaluate.main([*BEST, *SMALL, "--trials", "own.txt", "--root", "speech/train"]) == 0
    assert "of its speakers were trained on" in capsys.readouterr().out
