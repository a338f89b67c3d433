"""Damaged checkpoints of runs, released files and decision bundles."""

from __future__ import annotations

import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrl.config_file import config_from_dict, config_to_dict, load_config
from mrl.evaluation.bundle import read_cohort
from mrl.models.checkpoint_format import FORMAT, VERSION
from mrl.models.decision_bundle import read_bundle
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.load_encoder import load_encoder
from mrl.models.pretrained import build_released
from mrl.training.resume import resume_from
from tests.conftest import TINY
from tests.fuzz.archive_damage import archive_of, mutated_archive, mutated_npz, mutated_zip_headers
from tests.fuzz.byte_damage import mutated_bytes
from tests.fuzz.campaign import Input, Target
from tests.fuzz.config_targets import CONFIG
from tests.fuzz.odd_values import CHUNKS
from tests.fuzz.tree_damage import mutated_tree

SHA = "0" * 64


def run_checkpoints(folder: Path) -> Target:
    """A damaged checkpoint of a run, which is resumed or whose encoder hears something."""
    (folder / "run.yaml").write_bytes(CONFIG.read_bytes())
    config = load_config(folder / "run.yaml", ["prefixes=[{dim: 8}, {dim: 32}]"])
    content = _run_content(config_to_dict(config))
    good, path = _saved(content), folder / "tried.pt"

    def target(rng: random.Random) -> Input:
        damaged = _mutated_checkpoint(rng, content, good)
        resumes = rng.random() < 0.6

        def run() -> None:
            path.write_bytes(damaged)
            if resumes:
                resumed = resume_from(path, config, allow_config_change=rng.random() < 0.8)
                config_from_dict(resumed.content["config"], str(path))
            else:
                _use(path)

        return Input(run, damaged, ("tried.pt",))

    return target


def released_files(folder: Path) -> Target:
    """A released file, damaged anywhere or in the options of its architecture alone."""
    weights = build_released(TINY, seed=1).state_dict()
    content = {"model_config": dict(TINY), "state_dict": {name: w.clone() for name, w in weights.items()}}
    good, path = _saved(content), folder / "tried.pt"

    def target(rng: random.Random) -> Input:
        if rng.random() < 0.4:
            damaged = _saved({**content, "model_config": mutated_tree(rng, content["model_config"], times=2)})
        else:
            damaged = _mutated_checkpoint(rng, content, good)

        def run() -> None:
            path.write_bytes(damaged)
            _use(path)

        return Input(run, damaged, ("tried.pt",))

    return target


def decision_bundles(folder: Path) -> Target:
    """A damaged bundle, a damaged cohort beside it, or both; the bundle holds the digest of the cohort it gets."""
    path, cohort = folder / "tried.decisions.json", folder / "tried.cohort.npz"
    out = io.BytesIO()
    np.savez(out, cohort=np.ones((3, 8), np.float32))
    good, values = out.getvalue(), _bundle_values()

    def target(rng: random.Random) -> Input:
        arrays = mutated_npz(rng, good) if rng.random() < 0.5 else good
        digest = hashlib.sha256(arrays).hexdigest()
        tree = {**values, "cohort": {"file": cohort.name, "sha256": digest, "num_speakers": 3, "top": 2}}
        if rng.random() < 0.6:
            tree = mutated_tree(rng, tree)
        content = json.dumps(tree, default=str).encode()
        if rng.random() < 0.4:
            content = mutated_bytes(rng, content)

        def run() -> None:
            path.write_bytes(content)
            cohort.write_bytes(arrays)
            bundle = read_bundle(path, SHA)
            bundle.at(bundle.prefixes[0].dim)
            if bundle.cohort is not None:
                read_cohort(bundle.cohort, folder)

        places = ("tried.decisions.json", "tried.cohort.npz", str(folder))
        return Input(run, content + b"\n--cohort--\n" + arrays, places)

    return target


def _run_content(config: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of a run between two stages, as the trainer writes it, in miniature."""
    released = build_released(TINY, seed=1).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # of the head, so that an input can be made again
        encoder = SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 32), [8, 32])
    weights = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    criterion = {"classifier.weight": torch.zeros(8, 32)}
    epoch = {"epoch": 0, "stage": "pretrained"}
    record = {**epoch, "metrics": {"mean_eer": 0.1, "eer/made/8": 0.1}, "is_best": True}
    state = {
        "reference": 0.1, "stage": 0, "stage_epoch": 0, "epoch": 1, "step": 4, "epoch_step": 0, "stale": 0,
        "history": [record], "recent": [], "unreadable": {"a.wav": "cut short"},
    }  # fmt: skip
    best = {"rank": [0.0, 0.1], **epoch, "weights": {"encoder": weights, "criterion": criterion}}
    return {
        "format": FORMAT, "version": VERSION, "config": config, "model_config": dict(TINY), "dims": [8, 32],
        "encoder": weights, "lists": {"made": SHA}, "criterion": criterion, "stage_state": None, "teacher": None,
        "state": state, "best": best, "speakers": ["a", "b"], "corpus": SHA, "run_id": "0123", "wandb_run_id": None,
    }  # fmt: skip


def _bundle_values() -> dict[str, Any]:
    """Decisions at two prefixes, without a cohort."""
    point = {"threshold": 0.25, "false_accepts": 0.01, "misses": 0.2}
    prefix = {
        "dim": 8, "eer": 0.05, "at_eer": point, "at_min_dcf": [{"p_target": 0.01, "min_dcf": 0.4, **point}],
        "at_false_accept_rates": [{"rate": 0.01, **point}],
        "statistics": {
            "target_mean": 0.6, "target_deviation": 0.1, "nontarget_mean": 0.0, "nontarget_deviation": 0.1,
        },
        "calibration": {"scale": 20.0, "offset": -8.0},
    }  # fmt: skip
    return {
        "format": "redimnet-mrl-decisions", "version": 1, "encoder_sha256": SHA,
        "measured_on": {"name": "vox1-o", "sha256": SHA, "num_targets": 100, "num_nontargets": 400},
        "costs": {"miss": 1.0, "false_accept": 1.0}, "prefixes": [prefix, {**prefix, "dim": 32}],
    }  # fmt: skip


def _mutated_checkpoint(rng: random.Random, content: Any, good: bytes) -> bytes:
    """``content`` with damaged parts, or ``good``, the file that holds it, with damaged bytes."""
    match rng.randrange(8):
        case 0:
            return mutated_bytes(rng, good)
        case 1:
            return mutated_zip_headers(rng, good)
        case 2 | 3:
            return mutated_archive(rng, good)
    try:
        return _saved(mutated_tree(rng, content))
    except (RecursionError, NotImplementedError, RuntimeError):  # what the damage led to cannot be saved
        return archive_of([("x/data.pkl", rng.choice(CHUNKS))])


def _saved(content: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def _use(path: Path) -> None:
    """Load the encoder and hear something."""
    waveform = np.random.Generator(np.random.Philox(1)).standard_normal(16_000).astype(np.float32) / 10
    assert load_encoder(path).embed(waveform).shape[0] > 0
