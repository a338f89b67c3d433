"""Pairs that come again are counted; contradictions are among the bad lines (tests/data/test_trials.py)."""

from __future__ import annotations

import pytest

from mrl.data.trial_pairs import num_repeated, num_with_itself
from mrl.data.trials import read_trials
from mrl.errors import DataError


def test_repeats_count_in_either_order(tmp_path):
    (tmp_path / "x").write_text("1 a b\n0 a c\n1 a b\n1 b a\n0 c a\n0 c b\n1 a a\n1 a a\n")
    trials = read_trials(tmp_path / "x", tmp_path)
    assert (len(trials), num_repeated(trials), num_with_itself(trials)) == (8, 4, 2)


def test_of_models_the_roles_differ(tmp_path):
    (tmp_path / "x").write_text("a b 1\nb a 1\na b 1\nb c 0\nb d 1\n")
    (tmp_path / "map").write_text("a a\nb b d\n")
    trials = read_trials(tmp_path / "x", tmp_path, enrolment_map=tmp_path / "map")
    assert (num_repeated(trials), num_with_itself(trials)) == (1, 1)


def test_each_contradiction_is_named_with_the_line_before_it(tmp_path):
    (tmp_path / "x").write_text("1 a b\n\n0 a c\n0 b a\n1 a b\n1 c a\n")
    with pytest.raises(DataError) as caught:
        read_trials(tmp_path / "x", tmp_path)
    assert str(caught.value).splitlines()[1:] == [
        "  line 4: the same pair is a target trial on line 1",
        "  line 5: the same pair is a nontarget trial on line 4",
        "  line 6: the same pair is a nontarget trial on line 3",
    ]


def test_voxceleb1_o_has_repeats_in_the_other_order_only(speech):
    trials = read_trials(speech / "trials" / "voxceleb1_o_cleaned.txt", speech)
    assert (num_repeated(trials), num_with_itself(trials)) == (337, 0)
    assert len(set(trials.trials())) == len(trials)
