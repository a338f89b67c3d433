"""Who of the training speakers is in a trial list, wherever the list's paths start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mrl.data.joining import join_corpora
from mrl.data.overlap import shared_speakers, speakers_of
from mrl.data.trial_list import Trial, TrialList
from tests.data.corpora import corpus_of


def trials(root: Path | str, *paths: str) -> TrialList:
    pairs = zip(paths, paths[1:] + paths[:1], strict=True)
    return TrialList.from_trials("x", Path(root), [Trial(False, one, other) for one, other in pairs])


@pytest.mark.parametrize(
    ("root", "paths"),
    [
        ("/d/vox/dev", ["id1/s/1.wav", "id7/s/1.wav"]),  # the same folder
        ("/d", ["vox/dev/id1/s/1.wav", "vox/test/id7/s/1.wav"]),  # above
        ("/d/vox/dev/id1", ["s/1.wav", "t/1.wav"]),  # below: all of one speaker's
        ("/elsewhere", ["id1/s/1.wav", "id7/s/1.wav"]),  # by the folder's name
        ("/elsewhere", ["wav/id1/s/1.wav", "wav/id7/s/1.wav"]),  # ... below a folder that all share
    ],
)
def test_a_shared_speaker_is_found(root: str, paths: list[str]) -> None:
    train = corpus_of(["id1/s/1.wav", "id2/s/1.wav"], "/d/vox/dev")
    assert shared_speakers(train, trials(root, *paths)) == ["id1"]


@pytest.mark.parametrize(
    ("root", "paths"),
    [
        ("/d/vox/dev", ["id3/id1/1.wav", "id7/id2/1.wav"]),  # sessions that are called like speakers
        ("/d", ["vox/dev/id3/1.wav", "vox/dev2/id4/1.wav"]),
        ("/elsewhere", ["id3/id1/1.wav", "id4/id2/1.wav"]),
    ],
)
def test_others_are_not(root: str, paths: list[str]) -> None:
    train = corpus_of(["id1/s/1.wav", "id2/s/1.wav"], "/d/vox/dev")
    assert shared_speakers(train, trials(root, *paths)) == []


def test_within_joined_corpora_a_speaker_is_folder_and_corpus() -> None:
    train = join_corpora({"a": corpus_of(["001/1.wav"], "/d/a"), "b": corpus_of(["002/1.wav"], "/d/b")})
    assert shared_speakers(train, trials("/d", "b/001/1.wav", "b/003/1.wav")) == []
    assert shared_speakers(train, trials("/d", "a/001/1.wav", "b/003/1.wav")) == ["a/001"]
    assert shared_speakers(train, trials("/d/b", "001/1.wav", "002/1.wav")) == ["b/002"]


def test_a_list_from_elsewhere_is_compared_with_every_corpus() -> None:
    train = join_corpora({"a": corpus_of(["001/1.wav"], "/d/a"), "b": corpus_of(["002/1.wav"], "/d/b")})
    assert shared_speakers(train, trials("/e", "002/1.wav", "001/1.wav", "9/1.wav")) == ["a/001", "b/002"]


def test_links_to_the_corpus_are_the_corpus(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "link")
    train = corpus_of(["1/s/1.wav"], tmp_path / "real")
    assert shared_speakers(train, trials(tmp_path / "link", "1/s/1.wav", "2/s/1.wav")) == ["1"]
    assert shared_speakers(train, trials(tmp_path / "link", "3/1/1.wav", "2/s/1.wav")) == []


def test_speakers_are_counted_as_the_corpora_tell_them() -> None:
    train = join_corpora({"a": corpus_of(["1/1.wav"], "/d/a"), "b": corpus_of(["1/1.wav"], "/d/b")})
    paths = ("a/5/s/1.wav", "a/5/t/1.wav", "b/5/1.wav", "b/6/1.wav", "c/1.wav")
    assert len(speakers_of(trials("/d", *paths), train)) == 4
