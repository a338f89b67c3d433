"""Several corpora as one; one corpus stays what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrl.data.corpus import scan
from mrl.data.joining import common_root, join_corpora
from mrl.errors import DataError
from tests.data.corpora import corpus_of


def test_one_corpus_is_returned_as_it_is() -> None:
    corpus = corpus_of(["a/1.wav", "b/1.wav"])
    assert join_corpora({"speech": corpus}) is corpus
    assert common_root([Path("some/where")]) == Path("some/where")


def test_speakers_get_labels_and_files_stay_where_they_are(tmp_path: Path) -> None:
    for file in ("calls/in/anna/s1/1.wav", "calls/in/anna/2.wav", "vox/anna/s9/1.wav", "vox/bo/1.wav"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    parts = {
        "vox2": scan(tmp_path / "vox", manifest_dir=None),
        "in": scan(tmp_path / "calls/in", manifest_dir=None),
    }
    corpus = join_corpora(parts)
    assert corpus.root == tmp_path
    assert corpus.speakers == ("vox2/anna", "vox2/bo", "in/anna")
    assert corpus.speaker_ids.tolist() == [0, 1, 2, 2]
    assert corpus.speaker_ids.dtype == np.int32
    assert corpus.corpus_of_speaker.tolist() == [0, 0, 1]
    expected = ["vox/anna/s9/1.wav", "vox/bo/1.wav", "calls/in/anna/2.wav", "calls/in/anna/s1/1.wav"]
    assert [corpus.relative_path(item) for item in range(4)] == expected
    assert all(corpus.path(item).is_file() for item in range(4))
    assert [corpus.session_of(item) for item in range(4)] == ["s9", "", "", "s1"]
    assert [corpus.speaker_folder(item) for item in range(3)] == ["anna", "bo", "anna"]
    some = corpus.select(np.array([False, True, True, False]))
    assert (some.speakers, some.corpus_of_speaker.tolist()) == (("vox2/bo", "in/anna"), [0, 1])
    assert [some.relative_path(item) for item in range(2)] == expected[1:3]


def test_the_fingerprint_knows_the_labels_but_not_the_place() -> None:
    def make(where: str, *labels: str) -> str:
        parts = [corpus_of(["a/1.wav"], f"{where}/x"), corpus_of(["a/1.wav"], f"{where}/deep/y")]
        return join_corpora(dict(zip(labels, parts, strict=True))).fingerprint()

    assert make("/d", "x", "y") == make("/elsewhere/e", "x", "y")
    assert make("/d", "x", "y") != make("/d", "x", "z")


def test_a_corpus_within_another_is_an_error(tmp_path: Path) -> None:
    inner = tmp_path / "speech" / "train"
    inner.mkdir(parents=True)
    (tmp_path / "link").symlink_to(inner)
    for other in (inner, tmp_path / "link"):
        parts = {"a": corpus_of(["x/1.wav"], tmp_path / "speech"), "b": corpus_of(["y/1.wav"], other)}
        with pytest.raises(DataError, match=f"{other} lies in {tmp_path / 'speech'}"):
            join_corpora(parts)


def test_a_folder_without_a_name_needs_one() -> None:
    with pytest.raises(DataError, match="no folder name to label its speakers with; add a name"):
        join_corpora({"": corpus_of(["x/1.wav"], "."), "b": corpus_of(["y/1.wav"], "b")})


def test_the_common_root_of_several() -> None:
    assert common_root([Path("/d/vox/dev"), Path("/d/calls")]) == Path("/d")
    assert common_root([Path("a/b"), Path("a/c")]) == Path.cwd() / "a"
