"""A released file is scored as it is, from its file or its name; mistakes end in exit code 2 and one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics import roc_curve
from torch.nn import functional

from mrl.data.corpus import scan
from mrl.data.demo import DemoPlan, write_demo_corpus
from mrl.data.trials import generate_trials, write_trials
from mrl.models.pretrained import build_released, load_released, save_released
from scripts.verify_pretrained import main
from tests.conftest import TINY

NAMED = "redimnet-b0-vox2-ft_lm"  # published, and without a known digest


class Material(NamedTuple):
    """A tiny released file, a list, and the folder of its audio."""

    released: Path
    trials: Path
    root: Path


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("material")
    root = folder / "wav"
    write_demo_corpus(root, DemoPlan(6, 2, 2, seed=4, shortest_seconds=0.6, longest_seconds=0.9))
    trials = generate_trials(
        scan(root, manifest_dir=None), seed=1, name="made", targets_per_speaker=4, nontargets_per_target=3
    )
    write_trials(trials, folder / "trials.txt")
    save_released(build_released(TINY, seed=2).eval(), TINY, folder / "tiny.pt")
    return Material(folder / "tiny.pt", folder / "trials.txt", root)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of released checkpoints."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("MRL_HOME", str(folder))
    return folder


@pytest.fixture
def score(material: Material) -> Callable[..., int]:
    """``score(model, *more)``: the exit code of the script on the material, later options over earlier ones."""

    def run(model: str | Path, *more: str | Path) -> int:
        usual = ["--trials", material.trials, "--root", material.root, "--device", "cpu", "--workers", "1"]
        return main([str(argument) for argument in (model, *usual, *more)])

    return run


@pytest.fixture(scope="module")
def expected(material: Material) -> tuple[str, ...]:
    """EER in percent and both minDCFs as the table should print them, by other means than the package's."""
    model = load_released(material.released)
    embeddings: dict[str, torch.Tensor] = {}
    labels, scores = [], []
    for line in material.trials.read_text().splitlines():
        label, *names = line.split()
        for name in names:
            samples = torch.from_numpy(soundfile.read(material.root / name, dtype="float32")[0])
            with torch.no_grad():
                embeddings[name] = model(samples[None])[0].double()
        labels.append(int(label))
        scores.append(functional.cosine_similarity(*(embeddings[name] for name in names), dim=0).item())
    false_accepts, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
    misses = 1 - hits
    equal = np.interp(0.0, false_accepts - misses, false_accepts)
    costs = [np.min(p * misses + (1 - p) * false_accepts) / p for p in (0.01, 0.05)]
    assert 0.1 < equal < 0.6  # neither perfect nor empty: an EER that says something
    return (f"{100 * equal:.3f}", *(f"{cost:.4f}" for cost in costs))


def row_of(output: str, name: str) -> list[str]:
    """The cells of the one line of the table that begins with the name of the list."""
    rows = [line for line in output.splitlines() if re.match(rf"{name}  ", line)]
    assert len(rows) == 1, output
    return rows[0].split()


def test_a_file_is_scored_and_no_figure_is_published_for_it(score, material, expected, capsys):
    assert score(material.released) == 0
    output = capsys.readouterr().out
    measured, *costs = expected
    num_trials = len(material.trials.read_text().splitlines())
    assert row_of(output, "vox1-o") == ["vox1-o", str(num_trials), measured, "-", *costs]
    assert f"{material.released}, 24 numbers" in output
    assert "published: " not in output


@pytest.mark.parametrize(("protocol", "figure"), [("vox1-o", "1.16"), ("vox1-e", "1.25"), ("vox1-h", "2.20")])
def test_a_name_finds_its_file_and_the_published_figure(
    score, material, home, expected, capsys, protocol, figure
):
    shutil.copy(material.released, home / f"{NAMED}.pt")
    assert score(NAMED, "--list", protocol) == 0
    output = capsys.readouterr().out
    assert row_of(output, protocol)[2:4] == [expected[0], figure]
    assert f"{NAMED}, 24 numbers" in output
    assert "published: IDRnD/ReDimNet EVALUATION.md" in output
    record = json.loads((home / f"{NAMED}.pt.json").read_text())
    assert record["size"] == material.released.stat().st_size


def test_a_name_without_published_figures_shows_a_dash(score, material, home, expected, capsys):
    name = NAMED.replace("ft_lm", "ptn")
    shutil.copy(material.released, home / f"{name}.pt")
    assert score(name) == 0
    output = capsys.readouterr().out
    assert row_of(output, "vox1-o")[2:4] == [expected[0], "-"]
    assert "published: " not in output


def test_more_workers_give_the_same_result(score, material, capsys):
    assert score(material.released) == 0
    one = row_of(capsys.readouterr().out, "vox1-o")
    assert score(material.released, "--workers", "3") == 0
    assert row_of(capsys.readouterr().out, "vox1-o") == one


def fails_with(capsys: pytest.CaptureFixture[str], code: int, *parts: str) -> None:
    captured = capsys.readouterr()
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", captured.err), captured.err
    for part in parts:
        assert part in captured.err
    assert "Traceback" not in captured.out + captured.err


def test_another_file_under_a_name_whose_digest_is_known_is_refused(score, material, home, capsys):
    name = "redimnet-b2-vox2-ft_lm"
    shutil.copy(material.released, home / f"{name}.pt")
    fails_with(capsys, score(name), f"{name}.pt: not the released file (SHA-256 ")


def test_a_missing_list_is_said(score, material, capsys):
    fails_with(capsys, score(material.released, "--trials", "nowhere.txt"), "nowhere.txt", "cannot be read")


def test_missing_audio_is_counted_and_named(score, material, tmp_path, capsys):
    root = tmp_path / "wav"
    shutil.copytree(material.root, root)
    gone = material.trials.read_text().split()[1]
    (root / gone).unlink()
    fails_with(capsys, score(material.released, "--root", root), "1 of ", "are missing", gone)


def test_audio_that_cannot_be_read_is_named(score, material, tmp_path, capsys):
    root = tmp_path / "wav"
    shutil.copytree(material.root, root)
    damaged = material.trials.read_text().split()[1]
    (root / damaged).write_bytes(b"not audio")
    fails_with(capsys, score(material.released, "--root", root), damaged)


def test_a_missing_file_is_said(score, tmp_path, capsys):
    fails_with(capsys, score(tmp_path / "none.pt"), "none.pt: no such file")


def test_an_unknown_name_is_answered_with_the_nearest(score, home, capsys):
    fails_with(capsys, score("redimnet-b0-vox2-ftlm"), "'redimnet-b0-vox2-ftlm'", "the nearest: ", NAMED)
    assert list(home.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(score, material, capsys):
    fails_with(capsys, score(material.released, "--device", "cuda"), "no CUDA GPU was found", "auto or cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers must be at least 1"),
        (["--workers", "two"], "argument --workers: invalid int value: 'two'"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--list", "vox1"], "argument --list: invalid choice: 'vox1'"),
    ],
)
def test_a_wrong_argument_is_one_line_below_the_usage(score, material, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        score(material.released, *arguments)
    assert caught.value.code == 2
    usage, _, error = capsys.readouterr().err.partition("verify_pretrained.py: error: ")
    assert usage.startswith("usage: verify_pretrained.py")
    assert error.startswith(message)
    assert error.count("\n") == 1
