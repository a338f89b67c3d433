"""Folders of people's own recordings: other rates and layouts, few and many utterances, several corpora."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import mrl
from mrl.audio import SAMPLE_RATE
from mrl.data.corpus import scan
from mrl.data.loading import CropDataset
from mrl.data.sampling import balanced_sample
from mrl.data.trials import read_trials
from mrl.models.checkpoint_format import read_checkpoint
from tests.integration.conftest import CONFIG

STAGE = {**CONFIG["stages"][0], "epochs": 1, "augmentation": {}}


def record(path: Path, seed: int, rate: int = 16_000) -> None:
    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, generator.uniform(-0.3, 0.3, int(0.7 * rate)).astype(np.float32), rate)


@pytest.fixture
def own(workplace: Path) -> Path:
    """Speakers as people have them: a single utterance, very many, 8 kHz, nested and flat."""
    root = workplace / "own"
    record(root / "single/only.wav", 1)
    for item in range(30):
        record(root / f"many/{item}.wav", 10 + item)
    for item in range(4):
        record(root / f"telephone/2024-0{item % 2}/{item}.wav", 50 + item, rate=8_000)
        record(root / f"nested/year/{item % 2}/day/{item}.flac", 60 + item)
        record(root / f"flat/{item}.wav", 70 + item)
        record(root / f"sessions/s{item % 2}/{item}.wav", 80 + item)
        record(root / f"more/s{item % 2}/{item}.wav", 90 + item)
    return root


def test_an_ordinary_folder_trains(run, own, capsys):
    lists = [{"name": "own", "hold_out_speakers": 3}]
    assert run(data={"train": "own"}, validation={"lists": lists}, stages=[STAGE]) == 0
    output = capsys.readouterr().out
    content = read_checkpoint("checkpoints/last.pt")
    vectors = content["criterion"]["loss.class_vectors"]
    assert len(content["speakers"]) == len(vectors) == 4
    assert vectors.isfinite().all()
    trials = read_trials("logs/trials/own.txt", own)
    held_out = trials.speakers()
    assert not held_out & set(content["speakers"])
    flat = held_out & {"flat", "many"}
    assert (f"{len(flat)} of 3 speakers" in output) == bool(flat)
    for trial in trials.trials():
        speaker, session = trial.enrolment.split("/")[:2]
        if trial.is_target and speaker not in ("flat", "many", "nested"):
            assert trial.test.split("/")[1] != session


@pytest.mark.parametrize("sample", [1, 1000])
def test_each_class_starts_from_its_speakers_mean(run, own, sample):
    """Whoever has a single utterance too; of a sample of one utterance, each speaker still gives one."""
    lists = [{"name": "own", "root": "speech/validation"}]
    changes = {"data": {"train": "own"}, "validation": {"lists": lists}, "stages": []}
    assert run(**changes, model={"warm_start_utterances": sample}) == 0
    vectors = read_checkpoint("checkpoints/best.pt")["criterion"]["loss.class_vectors"].flatten(1)
    corpus = scan(own, manifest_dir=None)
    crops = CropDataset(corpus, 4 * SAMPLE_RATE, CONFIG["seed"])
    chosen = balanced_sample(corpus, max(sample, 7), CONFIG["seed"])[: len(corpus)]
    assert set(corpus.speaker_ids[chosen]) == set(range(7))
    encoder = mrl.load_encoder("checkpoints/best.pt")
    with torch.no_grad():
        embeddings = encoder(torch.stack([crops[(0, int(item))].waveform for item in chosen]))
    embeddings = torch.nn.functional.normalize(embeddings, dim=1)  # zero beyond the 24 released numbers
    for speaker, vector in enumerate(vectors):
        mean = embeddings[torch.from_numpy(corpus.speaker_ids[chosen] == speaker)].mean(0)
        assert torch.nn.functional.cosine_similarity(mean[:24], vector[:24], dim=0) > 0.9999


def test_a_new_domain_with_replay_of_the_old(run, own, workplace, capsys):
    data = {
        "train": [
            {"path": "own", "name": "new", "weight": 0.7},
            {"path": "speech/train", "name": "old", "weight": 0.3},
        ]
    }
    lists = [
        {"name": "made", "hold_out_speakers": 2, "hold_out_from": "new"},
        {"name": "guarded", "root": "speech/validation", "guard": True, "tolerance": 100.0},
    ]
    changes = {"data": data, "validation": {"lists": lists}, "stages": [{**STAGE, "epochs": 2}]}
    assert run(**changes) == 0
    content = read_checkpoint("checkpoints/last.pt")
    assert sum(name.startswith("old/") for name in content["speakers"]) == 8
    assert sum(name.startswith("new/") for name in content["speakers"]) == 5
    trials = read_trials("logs/trials/made.txt", workplace)
    assert {path.split("/")[0] for path in trials.utterances} == {"own"}
    assert run("--resume", "checkpoints/epoch_001.pt", **changes) == 0
    again = read_checkpoint("checkpoints/last.pt")
    for key, value in content["encoder"].items():
        assert torch.equal(value, again["encoder"][key])


def test_batches_of_speakers_train_on_unbalanced_ones(run, own, workplace):
    stage = {**STAGE, "utterances_per_speaker": 2, "batch_size": 8}
    lists = [{"name": "own", "root": "speech/validation"}]
    assert run(data={"train": "own"}, validation={"lists": lists}, stages=[stage]) == 0
    text = (workplace / "logs/metrics.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    steps = [entry["train/loss"] for entry in records if entry["kind"] == "step"]
    assert len(steps) == 51 // 8
    assert np.isfinite(steps).all()


def test_a_diagnosis_says_so(run, own, capsys):
    lists = [{"name": "own", "hold_out_speakers": 2}]
    data = {"train": "own", "include_validation_speakers": True}
    assert run(data=data, validation={"lists": lists}, stages=[STAGE]) == 0
    assert "DIAGNOSIS ONLY" in capsys.readouterr().out
    assert len(read_checkpoint("checkpoints/last.pt")["speakers"]) == 7
