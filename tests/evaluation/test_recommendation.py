"""The smallest prefix that is enough: verdicts by hand, words, and how many speakers would settle it."""

from __future__ import annotations

import numpy as np
import pytest

from mrl.evaluation.recommendation import recommendation, speakers_needed

DIMS = (64, 128, 256)
RESAMPLES = 4001
SPREAD = np.linspace(-1.0, 1.0, RESAMPLES)  # its middle 95 % span -0.95 to 0.95


def resampled(eers, *spreads):
    """EERs [K, R] whose differences to the last are those observed, give or take ``spreads`` (a share, at most)."""
    common = 0.002 * np.random.default_rng(0).normal(size=RESAMPLES)  # of all prefixes, so of no difference
    return np.stack([eer + spread * SPREAD + common for eer, spread in zip(eers, spreads, strict=True)])


def options(**changes):
    return {"tolerance": 0.001, "num_speakers": 40} | changes


def test_a_prefix_within_the_tolerance_at_the_upper_end_is_enough():
    eers = (0.014, 0.0103, 0.010)
    found = recommendation(DIMS, eers, resampled(eers, 0.002, 0.0006, 0), **options())
    assert (found.dim, found.best_dim) == (128, 256)
    assert [loss.verdict for loss in found.losses] == ["worse", "enough", "enough"]
    assert found.losses[1].loss == pytest.approx(0.0003)
    assert found.losses[1].interval == pytest.approx((0.0003 - 0.00057, 0.0003 + 0.00057))
    assert found.words == (
        "128 numbers are enough: 0.03 points above 256 (95 % interval -0.03 to 0.09, within the "
        "tolerance of 0.10); 512 bytes a speaker in float32 instead of 1,024. 64 numbers lose 0.40 points "
        "(0.21 to 0.59)."
    )


def test_the_same_losses_with_fewer_speakers_do_not_settle_it():
    eers = (0.014, 0.0103, 0.010)
    found = recommendation(DIMS, eers, resampled(eers, 0.002, 0.002, 0), **options())
    assert found.dim == 256
    assert [loss.verdict for loss in found.losses] == ["worse", "unclear", "enough"]
    assert found.words == (
        "Use 256 numbers: EER 1.00 %, the best, and no smaller prefix is shown to be enough; 1,024 bytes a "
        "speaker in float32. 128 numbers may be enough or not: 0.03 points above 256 (-0.16 to 0.22). 64 numbers lose "
        "0.40 points (0.21 to 0.59). To tell, more speakers are needed than 40: about 300, if the loss stays what it "
        "is."
    )


def test_the_number_of_speakers_by_hand():
    eers = (0.0104, 0.010)
    (loss, _) = recommendation((1, 2), eers, resampled(eers, 0.002, 0), **options()).losses
    # The upper end is 0.0019 above a loss of 0.0004 and must be 0.0006 above it: (19 / 6)^2 = 10.03 times as many.
    assert speakers_needed(loss, 0.001, 40) == 410
    assert speakers_needed(loss, 0.0004, 40) is None  # the loss alone uses up the tolerance
    assert speakers_needed(loss, 0.000400001, 40) is None  # a million and more


def test_that_speakers_are_lacking_is_said_without_a_number_where_none_would_do():
    eers = (0.012, 0.010)
    words = recommendation((1, 2), eers, resampled(eers, 0.002, 0), **options()).words
    assert words.endswith("To tell, more speakers are needed than 40.")


def test_a_small_prefix_may_be_the_best():
    eers = (0.02, 0.009, 0.010)
    found = recommendation(DIMS, eers, resampled(eers, 0, 0, 0.001), **options())
    assert (found.dim, found.best_dim) == (128, 128)
    assert found.words.startswith(
        "128 numbers are enough: EER 0.90 %, the best of all prefixes; 512 bytes a speaker in float32 instead"
    )
    tied = recommendation(DIMS, (0.01, 0.01, 0.01), None, **options())
    assert tied.best_dim == 64


def test_a_smaller_one_that_is_unclear_does_not_hide_a_still_smaller_one_that_is_enough():
    eers = (0.0101, 0.0103, 0.010)
    found = recommendation(DIMS, eers, resampled(eers, 0.0001, 0.01, 0), **options())
    assert found.dim == 64
    assert [loss.verdict for loss in found.losses] == ["enough", "unclear", "enough"]
    assert "more speakers" not in found.words


def test_without_a_bootstrap_the_observed_losses_decide_and_it_is_said():
    words = recommendation(DIMS, (0.02, 0.0105, 0.010), None, **options()).words
    assert words == (
        "128 numbers are enough: 0.05 points above 256 (within the tolerance of 0.10); 512 bytes a speaker in "
        "float32 instead of 1,024. 64 numbers lose 1.00 points. No speakers were resampled, so chance is not ruled out."
    )


def test_the_only_prefix_is_recommended():
    words = recommendation((256,), (0.01,), resampled((0.01,), 0), **options()).words
    assert (
        words
        == "Use 256 numbers: EER 1.00 %, the best, and the only prefix; 1,024 bytes a speaker in float32."
    )


@pytest.mark.parametrize(("tolerance", "dim"), [(0.0, 256), (0.0008, 256), (0.001, 128), (0.007, 64)])
def test_a_larger_tolerance_allows_a_smaller_prefix(tolerance, dim):
    eers = (0.014, 0.0103, 0.010)
    rates = resampled(eers, 0.002, 0.0006, 0)
    assert recommendation(DIMS, eers, rates, **options(tolerance=tolerance)).dim == dim


def test_confidence_widens_the_interval():
    eers = (0.014, 0.0103, 0.010)
    rates = resampled(eers, 0.002, 0.00072, 0)
    found = [recommendation(DIMS, eers, rates, **options(confidence=level)) for level in (0.5, 0.95, 0.9999)]
    assert [each.dim for each in found] == [128, 128, 256]
    assert found[0].losses[1].interval == pytest.approx((0.0003 - 0.00036, 0.0003 + 0.00036))
    assert "(50 % interval" in found[0].words


def test_a_list_without_errors_says_little():
    rates = np.zeros((3, 10))
    words = recommendation(DIMS, (0.0, 0.0, 0.0), rates, **options()).words
    assert words.startswith("64 numbers are enough: EER 0.00 %, the best of all prefixes")
    assert words.endswith(
        "Without a single error there is little to compare; a larger or harder list says more."
    )
