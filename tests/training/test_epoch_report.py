"""What is said where a stage does harm: from the second validation in a row on, and when it ends early."""

from __future__ import annotations

from mrl.training.epoch_report import early_end_line, worse_line


def history(*eers: float, stage: str = "full") -> list[dict]:
    """Epoch 0 first; all others of ``stage``."""
    return [
        {"epoch": epoch, "stage": stage if epoch else "pretrained", "mean_eer": eer}
        for epoch, eer in enumerate(eers)
    ]


def test_two_worse_validations_in_a_row_are_said():
    assert worse_line(history(0.05)) is None
    assert worse_line(history(0.05, 0.06)) is None
    assert worse_line(history(0.05, 0.06, 0.04, 0.07)) is None
    assert worse_line(history(0.05, 0.05, 0.06)) is None  # as good as epoch 0 is not worse
    line = worse_line(history(0.05, 0.04, 0.06, 0.07))
    assert line is not None
    assert line.startswith(
        "stage full: the mean EER has been worse than at epoch 0 (5.00 -> 7.00 %) in 2 validations in a row"
    )


def test_validations_of_other_stages_do_not_count():
    records = history(0.05, 0.06, 0.07)
    records[1]["stage"] = "head"
    assert worse_line(records) is None


def test_an_early_end_says_whether_epoch_0_was_better():
    assert early_end_line("full", 1, history(0.05, 0.04, 0.045)) == (
        "stage full: no new best in 1 validation, it ends early"
    )
    assert early_end_line("full", 2, history(0.05, 0.06, 0.07)) == (
        "stage full: no new best in 2 validations, it ends early, and the mean EER is worse than at epoch 0 "
        "(5.00 -> 7.00 %)"
    )
