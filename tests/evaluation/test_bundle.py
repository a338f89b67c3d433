"""From a report to a bundle and back from its file; the cohort beside it, checked."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest

from mrl.config import EvaluationConfig
from mrl.errors import CheckpointError
from mrl.evaluation.bundle import bundle_of, read_cohort, write_bundle, write_cohort
from mrl.evaluation.detection import report_prefix
from mrl.evaluation.results import ListReport
from mrl.models.decision_bundle import read_bundle

CONFIG = EvaluationConfig(p_targets=(0.01, 0.2), cost_miss=10.0)
ENCODER = "a" * 64


def report(targets: int = 300, nontargets: int = 2000) -> ListReport:
    labels = np.arange(targets + nontargets) < targets
    rng = np.random.default_rng(0)
    prefixes = tuple(
        report_prefix(0.15 * rng.normal(size=len(labels)).clip(-2, 2) + apart * labels, labels, dim, CONFIG)
        for dim, apart in ((64, 0.4), (256, 0.5))
    )
    return ListReport("vox1-o", None, "b" * 64, len(labels), targets, 50, prefixes)


def test_a_bundle_says_what_the_report_says(tmp_path):
    found = report()
    path = write_bundle(bundle_of(found, ENCODER, CONFIG), tmp_path / "best.pt")
    assert path == tmp_path / "best.decisions.json"
    bundle = read_bundle(path, ENCODER)
    assert (bundle.measured_on.name, bundle.measured_on.sha256) == ("vox1-o", "b" * 64)
    assert (bundle.measured_on.num_targets, bundle.measured_on.num_nontargets) == (300, 2000)
    assert (bundle.costs.miss, bundle.costs.false_accept) == (10.0, 1.0)
    assert bundle.cohort is None
    assert [prefix.dim for prefix in bundle.prefixes] == [64, 256]
    for prefix in found.prefixes:
        decisions = bundle.at(prefix.dim)
        assert decisions.eer == prefix.eer
        assert tuple(decisions.at_eer.model_dump().values()) == prefix.thresholds["eer"]
        assert {point.p_target: point.min_dcf for point in decisions.at_min_dcf} == prefix.min_dcf
        for point in decisions.at_min_dcf:
            assert point.threshold == prefix.thresholds[f"min_dcf_{point.p_target:g}"].value
        for point in decisions.at_false_accept_rates:
            expected = prefix.thresholds[f"far_{point.rate:g}"]
            assert (point.threshold, point.false_accepts, point.misses) == expected
        assert tuple(decisions.statistics.model_dump().values()) == prefix.statistics
        assert tuple(decisions.calibration.model_dump().values()) == prefix.calibration
        rule = bundle.rule(prefix.dim, 0.001)
        threshold = prefix.thresholds["far_0.001"].value
        assert rule(threshold).decision
        assert not rule(np.nextafter(threshold, -1)).decision


def test_rates_that_the_list_cannot_resolve_are_left_out_and_refused():
    bundle = bundle_of(report(nontargets=200), ENCODER, CONFIG)
    assert [point.rate for point in bundle.at(64).at_false_accept_rates] == [0.01]
    with pytest.raises(CheckpointError, match=r"only for: 0\.01; .* from 0\.005 on, .* trial of vox1-o"):
        bundle.rule(64, 0.001)
    with pytest.raises(CheckpointError, match="only for: none"):
        bundle_of(report(nontargets=20), ENCODER, CONFIG).rule(64, 0.01)


def test_perfect_and_useless_scores_make_a_bundle_too(tmp_path):
    for scores in ([1.0, 1.0, -1.0, -1.0], [1.0] * 4, [-1.0, 0.0, 1.0, 1.0]):
        prefix = report_prefix(scores, [1, 1, 0, 0], 8, EvaluationConfig(false_accept_rates=(0.5,)))
        found = dataclasses.replace(report(), num_trials=4, num_targets=2, prefixes=(prefix,))
        written = bundle_of(found, ENCODER, EvaluationConfig(false_accept_rates=(0.5,)))
        assert read_bundle(write_bundle(written, tmp_path / "best.pt"), ENCODER) == written


def test_the_cohort_comes_back_exactly_and_is_bound_to_the_bundle(tmp_path):
    cohort = np.random.default_rng(0).normal(size=(7, 256)).astype(np.float32)
    reference = write_cohort(cohort, tmp_path / "best.pt", top=5)
    assert (reference.file, reference.num_speakers, reference.top) == ("best.cohort.npz", 7, 5)
    assert reference.sha256 == hashlib.sha256((tmp_path / "best.cohort.npz").read_bytes()).hexdigest()
    path = write_bundle(bundle_of(report(), ENCODER, CONFIG, reference), tmp_path / "best.pt")
    found = read_cohort(read_bundle(path, ENCODER).cohort, tmp_path)
    np.testing.assert_array_equal(found, cohort)
    assert found.dtype == np.float32
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.cohort.npz", "best.decisions.json"]


def test_another_cohort_than_the_one_that_was_written_is_refused(tmp_path):
    cohort = np.ones((7, 4), dtype=np.float32)
    reference = write_cohort(cohort, tmp_path / "best.pt", top=5)
    write_cohort(2 * cohort, tmp_path / "best.pt", top=5)
    with pytest.raises(CheckpointError, match=r"best\.cohort\.npz: not the cohort"):
        read_cohort(reference, tmp_path)
    (tmp_path / "best.cohort.npz").unlink()
    with pytest.raises(CheckpointError, match=r"best\.cohort\.npz: the cohort cannot be read"):
        read_cohort(reference, tmp_path)


def saved(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"no zip", "holds no cohort"),
        (b"PK\x03\x04 cut short", "holds no cohort"),
        (saved(other=np.ones(3)), "holds no cohort"),
        (saved(cohort=np.array([{"a": 1}], dtype=object)), "holds no cohort"),
        (saved(cohort=np.ones((7, 4))), r"float64 \[7, 4\], not float32 \[7, D\]"),
        (saved(cohort=np.ones((6, 4), dtype=np.float32)), r"float32 \[6, 4\]"),
    ],
)
def test_a_file_that_holds_no_cohort_is_refused(tmp_path, content, complaint):
    reference = write_cohort(np.ones((7, 4), dtype=np.float32), tmp_path / "best.pt", top=5)
    (tmp_path / "best.cohort.npz").write_bytes(content)
    matching = reference.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    with pytest.raises(CheckpointError, match=complaint):
        read_cohort(matching, tmp_path)


def test_what_cannot_be_written_is_named_and_the_earlier_one_stays(tmp_path, monkeypatch):
    bundle = bundle_of(report(), ENCODER, CONFIG)
    path = write_bundle(bundle, tmp_path / "best.pt")
    before = path.read_bytes()

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for attempt in (
        lambda: write_bundle(bundle, tmp_path / "best.pt"),
        lambda: write_cohort(np.ones((2, 2), dtype=np.float32), tmp_path / "best.pt", 2),
    ):
        with pytest.raises(CheckpointError, match=r"cannot be written .*No space left"):
            attempt()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["best.decisions.json"]
