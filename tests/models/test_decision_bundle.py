"""Decisions: verify against cosines by hand, and every bundle that cannot be trusted refused in one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import mrl
from mrl.errors import AudioError, CheckpointError
from mrl.models.checkpoint_format import FORMAT, VERSION
from mrl.models.decision_bundle import CohortReference, DecisionBundle, bundle_path, read_bundle
from mrl.models.encoder import SpeakerEncoder
from mrl.models.fingerprint import fingerprint_of
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import save_released

A, B = torch.randn(2, 12_000, generator=torch.Generator().manual_seed(0)) * 0.1


def prefix_values(dim: int, threshold: float) -> dict[str, Any]:
    point = {"threshold": threshold, "false_accepts": 0.01, "misses": 0.2}
    return {
        "dim": dim,
        "eer": 0.05,
        "at_eer": point,
        "at_min_dcf": [{"p_target": 0.01, "min_dcf": 0.4, **point}],
        "at_false_accept_rates": [{"rate": 0.01, **point}, {"rate": 0.05, **point, "threshold": -1.0}],
        "statistics": {
            "target_mean": 0.6, "target_deviation": 0.1, "nontarget_mean": 0.0, "nontarget_deviation": 0.1,
        },
        "calibration": {"scale": 20.0, "offset": -8.0},
    }  # fmt: skip


def bundle_values(encoder: SpeakerEncoder) -> dict[str, Any]:
    """What a bundle file holds for prefixes 8 and 32."""
    return {
        "format": "redimnet-mrl-decisions",
        "version": 1,
        "encoder_sha256": fingerprint_of(encoder),
        "measured_on": {"name": "vox1-o", "sha256": "0" * 64, "num_targets": 100, "num_nontargets": 400},
        "costs": {"miss": 1.0, "false_accept": 1.0},
        "prefixes": [prefix_values(8, 0.25), prefix_values(32, 0.5)],
        "cohort": None,
    }


@pytest.fixture
def checkpoint(released, tmp_path) -> Path:
    encoder = SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 32), [8, 32])
    content = {
        "format": FORMAT, "version": VERSION, "config": {}, "model_config": encoder.model_config,
        "dims": [8, 32], "encoder": encoder.state_dict(), "lists": {},
    }  # fmt: skip
    torch.save(content, tmp_path / "best.pt")
    return tmp_path / "best.pt"


@pytest.fixture
def encoder(checkpoint) -> SpeakerEncoder:
    """Loaded, and with a bundle beside it."""
    loaded = mrl.load_encoder(checkpoint)
    bundle_path(checkpoint).write_text(json.dumps(bundle_values(loaded)))
    return loaded


def test_the_bundle_lies_beside_its_checkpoint():
    assert bundle_path(Path("a/best.pt")) == Path("a/best.decisions.json")
    assert bundle_path(Path("a/epoch_010.pt")) == Path("a/epoch_010.decisions.json")


@pytest.mark.parametrize("dim", [8, 32, None])
def test_verify_gives_cosine_decision_and_ratio(encoder, dim):
    size = 32 if dim is None else dim
    with torch.no_grad():
        raw = encoder(torch.stack([A, B])).double()[:, :size].numpy()
    cosine = float(raw[0] @ raw[1] / np.sqrt((raw[0] @ raw[0]) * (raw[1] @ raw[1])))
    found = encoder.verify(A, B, dim)
    assert found.score == pytest.approx(cosine, abs=1e-5)
    assert found.threshold == (0.25 if size == 8 else 0.5)
    assert found.decision is (found.score >= found.threshold)
    assert found.log_likelihood_ratio == pytest.approx(20 * found.score - 8)
    score, decision = found
    assert (score, decision) == (found.score, found.decision)
    assert encoder.verify(B.numpy(), A, dim) == found


def test_the_threshold_itself_is_accepted_and_a_rate_chooses_it(encoder, checkpoint):
    score = encoder.verify(A, B, 8).score
    for threshold, expected in [(score, True), (float(np.nextafter(score, 2)), False)]:
        values = bundle_values(encoder)
        values["prefixes"][0]["at_false_accept_rates"][0]["threshold"] = threshold
        bundle_path(checkpoint).write_text(json.dumps(values))
        fresh = mrl.load_encoder(checkpoint)
        assert fresh.decisions.rule(8, 0.01)(score).decision is expected
        assert fresh.verify(A, B, dim=8, false_accept_rate=0.05).decision is True
    assert encoder.verify(A, A).score == pytest.approx(1.0, abs=1e-6)


def test_files_are_verified_as_their_samples_are(encoder, tmp_path):
    for name, samples in (("a.wav", A), ("b.wav", B)):
        soundfile.write(tmp_path / name, samples.numpy(), 16_000, subtype="FLOAT")
    expected = encoder.verify(A, B, dim=8).score
    assert encoder.verify(tmp_path / "a.wav", str(tmp_path / "b.wav"), dim=8).score == pytest.approx(expected)
    assert encoder.verify(tmp_path / "a.wav", B, dim=8).score == pytest.approx(expected)
    with pytest.raises(AudioError, match=r"none\.wav"):
        encoder.verify(A, tmp_path / "none.wav")


def test_without_a_bundle_verify_says_how_to_make_one_and_finds_it_when_it_is_there(checkpoint, released):
    loaded = mrl.load_encoder(checkpoint)
    assert loaded.decisions is None
    with pytest.raises(CheckpointError) as raised:
        loaded.verify(A, B)
    message = str(raised.value)
    assert "no decision bundle" in message
    assert str(bundle_path(checkpoint)) in message
    assert "python evaluate.py --checkpoint" in message
    bundle_path(checkpoint).write_text(json.dumps(bundle_values(loaded)))
    assert loaded.verify(A, B).threshold == 0.5
    unsaved = SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 32), [32])
    with pytest.raises(CheckpointError, match="loaded from a checkpoint of train"):
        unsaved.verify(A, B)


def test_a_released_file_takes_a_bundle_too(released, tiny_config, tmp_path):
    save_released(released, tiny_config, tmp_path / "model.pt")
    loaded = mrl.load_encoder(tmp_path / "model.pt")
    values = bundle_values(loaded)
    values["prefixes"] = [prefix_values(24, 0.3)]
    (tmp_path / "model.decisions.json").write_text(json.dumps(values))
    assert loaded.verify(A, B).threshold == 0.3


def test_prefixes_and_rates_that_it_does_not_hold_are_refused_with_those_that_it_holds(encoder):
    with pytest.raises(CheckpointError, match=r"no thresholds for prefix 16, only for 8, 32; .*--dims 16"):
        encoder.verify(A, B, dim=16)
    with pytest.raises(CheckpointError, match=r"rate of 0\.001, only for: 0\.01, 0\.05; .* from 0\.0025 on"):
        encoder.verify(A, B, dim=8, false_accept_rate=0.001)
    with pytest.raises(ValueError, match=r"outside 1\.\.32"):
        encoder.verify(A, B, dim=33)


@pytest.mark.parametrize(
    ("recording", "error", "complaint"),
    [
        (torch.stack([A, B]), ValueError, r"a waveform \[T\], not of shape \[2, 12000\]"),
        (A.tolist(), TypeError, "not list"),
        (torch.zeros(12_000), ValueError, "silent"),
        (A[:100], ValueError, "too short"),
    ],
)
def test_recordings_that_make_no_sense_are_refused(encoder, recording, error, complaint):
    with pytest.raises(error, match=complaint):
        encoder.verify(A, recording)


def test_other_weights_are_refused(encoder, checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content["encoder"]["head.linear.bias"][3] += 1e-3
    torch.save(content, checkpoint)
    other = mrl.load_encoder(checkpoint)
    for attempt in (lambda: other.verify(A, B), lambda: other.decisions):
        with pytest.raises(CheckpointError, match=r"best\.decisions\.json: made for other weights") as raised:
            attempt()
        assert "evaluate.py" in str(raised.value)


def test_the_fingerprint_is_taken_once(encoder, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "mrl.models.encoder.fingerprint_of", lambda module: calls.append(1) or fingerprint_of(module)
    )
    for _ in range(3):
        encoder.verify(A, B)
    assert len(calls) == 1
    assert copy.deepcopy(encoder).verify(A, B) == encoder.verify(A, B)


def changed(path: str, value: Any):
    """A change of one entry, by its dotted place; ``...`` takes it out."""

    def change(values: dict[str, Any]) -> None:
        *parts, last = (int(part) if part.isdecimal() else part for part in path.split("."))
        node: Any = values
        for part in parts:
            node = node[part]
        if value is ...:
            del node[last]
        else:
            node[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (changed("format", "other"), "not a decision bundle"),
        (changed("format", ...), "not a decision bundle"),
        (changed("version", 2), "format version 2, this version reads 1"),
        (changed("version", ...), "format version None"),
        (changed("encoder_sha256", "0" * 63), "damaged: encoder_sha256"),
        (changed("surprise", 1), "damaged: surprise: Extra inputs"),
        (changed("costs", ...), "damaged: costs: Field required"),
        (changed("prefixes", []), "damaged: prefixes: .*at least 1"),
        (changed("prefixes.0.dim", 0), r"damaged: prefixes\.0\.dim"),
        (changed("prefixes.0.dim", "8"), r"damaged: prefixes\.0\.dim: .*integer"),
        (changed("prefixes.1.dim", 8), "damaged: prefixes: must be of ascending prefixes, not .8, 8"),
        (changed("prefixes.0.eer", 1.5), r"prefixes\.0\.eer"),
        (changed("prefixes.0.at_eer.threshold", 1.1), r"prefixes\.0\.at_eer\.threshold"),
        (changed("prefixes.0.at_eer.threshold", float("nan")), r"prefixes\.0\.at_eer\.threshold"),
        (changed("prefixes.1.at_false_accept_rates.0.rate", 0.0), r"at_false_accept_rates\.0\.rate"),
        (changed("prefixes.1.calibration.scale", -1.0), r"calibration\.scale"),
        (changed("prefixes.1.calibration.offset", float("inf")), r"calibration\.offset"),
        (changed("measured_on.num_nontargets", 0), r"measured_on\.num_nontargets"),
        (
            changed("cohort", {"file": "../x.npz", "sha256": "0" * 64, "num_speakers": 9, "top": 3}),
            r"cohort\.file: must be the name",
        ),
    ],
)
def test_damage_is_refused_in_one_line_with_its_place(encoder, checkpoint, change, complaint):
    values = bundle_values(encoder)
    change(values)
    bundle_path(checkpoint).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=complaint) as raised:
        encoder.verify(A, B)
    message = str(raised.value)
    assert message.startswith(f"{bundle_path(checkpoint)}: ")
    assert "python evaluate.py --checkpoint" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no JSON"),
        (b'{"format": "redimnet-mrl-dec', "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[1, 2]", "not a decision bundle"),
        (b" " * 10_000_001, "not a decision bundle"),
    ],
)
def test_files_that_are_no_bundle_are_refused(tmp_path, content, complaint):
    path = tmp_path / "x.decisions.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=complaint) as raised:
        read_bundle(path, "0" * 64)
    assert "\n" not in str(raised.value)


def test_a_folder_in_its_place_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_bundle(tmp_path, "0" * 64)


def test_every_cut_of_a_bundle_is_noticed(encoder, checkpoint):
    content = json.dumps(bundle_values(encoder)).encode()
    for length in range(0, len(content), 37):
        bundle_path(checkpoint).write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="no JSON"):
            read_bundle(bundle_path(checkpoint), fingerprint_of(encoder))


def test_a_bundle_comes_back_as_it_was(encoder):
    bundle = encoder.decisions
    assert DecisionBundle.model_validate_json(bundle.model_dump_json()) == bundle
    with pytest.raises(ValueError, match="frozen"):
        bundle.version = 2


@pytest.mark.parametrize("file", ["", "..", "a/b.npz", "..\\b.npz", "/etc/passwd", "C:\\x.npz"])
def test_a_cohort_lies_beside_the_bundle(file):
    with pytest.raises(ValueError, match="name of a file beside the bundle"):
        CohortReference(file=file, sha256="0" * 64, num_speakers=3, top=2)
    assert CohortReference(file="best.cohort.npz", sha256="0" * 64, num_speakers=3, top=2).top == 2
