"""Speakers by folder, and by labels where the folders of a list with models say nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrl.data.trial_speakers import speaker_numbers
from mrl.data.trials import Trial, TrialList, read_trials
from mrl.errors import DataError


def of_models(folder: Path, trials: str, enrolment_map: str) -> TrialList:
    (folder / "list").write_text(trials)
    (folder / "map").write_text(enrolment_map)
    return read_trials(folder / "list", folder, "x", folder / "map")


def test_folders_name_speakers():
    trials = TrialList.from_trials(
        "x", Path(), [Trial(True, "wav/b/0/1", "wav/b/1/1"), Trial(False, "wav/b/0/1", "wav/a/0/1")]
    )
    assert speaker_numbers(trials).tolist() == [1, 1, 0]


def test_folders_that_contradict_the_labels_of_a_plain_list_are_refused():
    trials = TrialList.from_trials("x", Path(), [Trial(True, "a/1", "a/2"), Trial(False, "a/1", "a/3")])
    with pytest.raises(DataError, match=r"^x: a/1 and a/3 are a non-target trial"):
        speaker_numbers(trials)


def test_labels_name_the_speakers_of_cn_celeb(tmp_path):
    """Three speakers; the utterances of a model in ``data``, those of tests in one folder."""
    speakers, lines = ["id00800", "id00801", "id00802"], []
    for model in speakers:
        lines += [
            f"{model}-enroll test/{other}-song-01-{item}.wav {int(model == other)}\n"
            for other in speakers
            for item in range(3)
        ]
    enrolment_map = "".join(f"{name}-enroll {name}/a.wav {name}/b.wav\n" for name in speakers)
    trials = of_models(tmp_path, "".join(lines), enrolment_map)
    numbers = speaker_numbers(trials)
    names = np.array([next(name for name in speakers if name in path) for path in trials.utterances])
    assert len(np.unique(numbers)) == 3
    assert all(len(set(numbers[names == name])) == 1 for name in speakers)


def test_folders_go_before_labels(tmp_path):
    # By labels alone a/9 and a/8, which nothing joins, would be two speakers.
    trials = of_models(tmp_path, "m a/9 1\nn a/8 0\nn b/9 1\n", "m a/1 a/2\nn b/1\n")
    assert dict(zip(trials.utterances, speaker_numbers(trials).tolist(), strict=True)) == {
        "a/9": 0, "a/8": 0, "b/9": 1, "a/1": 0, "a/2": 0, "b/1": 1,
    }  # fmt: skip


def test_a_model_of_two_folders_is_one_speaker_only_where_labels_allow_it(tmp_path):
    enrolment_map = "m x/1 y/1\nn z/1\n"
    numbers = speaker_numbers(of_models(tmp_path, "m x/9 1\nn x/9 0\nn z/9 1\n", enrolment_map))
    assert len(set(numbers.tolist())) == 2
    with pytest.raises(DataError, match="folders do not name their speakers"):
        speaker_numbers(of_models(tmp_path, "m x/9 1\nn x/9 1\nn z/9 1\nm z/9 0\n", enrolment_map))
