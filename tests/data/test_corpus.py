from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl.data import manifest
from mrl.data.corpus import Corpus, scan
from mrl.errors import DataError

FILES = (
    "a-b/s1/u1.wav",  # sorts before "a/..." as a whole path, after it as a speaker
    "a/s1/u2.WAV",
    "a/s1/u1.flac",
    "a/s2/deep/er/u3.m4a",
    "a/u0.opus",
    "c/u1.mp3",
    "c/u2.ogg",
)
IN_ORDER = (
    "a/s1/u1.flac",
    "a/s1/u2.WAV",
    "a/s2/deep/er/u3.m4a",
    "a/u0.opus",
    "a-b/s1/u1.wav",
    "c/u1.mp3",
    "c/u2.ogg",
)


def plant(root: Path, files: tuple[str, ...] = FILES) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def settle(root: Path, seconds: float = 60.0) -> None:
    """Make every folder look as if it had last changed some time ago."""
    past = time.time() - seconds
    for folder, _, _ in os.walk(root):
        os.utime(folder, (past, past))


def paths(corpus: Corpus) -> list[str]:
    return [corpus.relative_path(utterance) for utterance in range(len(corpus))]


def test_scan_finds_audio_in_order(tmp_path: Path) -> None:
    plant(tmp_path, (*FILES, "a/notes.txt", "a/.hidden.wav", ".trash/u.wav", "a/.old/u.wav", "empty/x.txt"))
    corpus = scan(tmp_path, manifest_dir=None)
    assert paths(corpus) == list(IN_ORDER)
    assert corpus.speakers == ("a", "a-b", "c")
    assert corpus.speaker_ids.tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert corpus.speaker_ids.dtype == np.int32
    assert corpus.path(4) == tmp_path / "a-b/s1/u1.wav"
    assert corpus.ignored_files == 0
    assert [corpus.utterances_of(speaker).tolist() for speaker in range(3)] == [[0, 1, 2, 3], [4], [5, 6]]
    assert [corpus.session_of(item) for item in range(7)] == ["s1", "s1", "s2", "", "s1", "", ""]


def test_strange_names_survive(tmp_path: Path) -> None:
    names = ("Ünï/日本 1/a b.wav", "x\ny/u\t1.wav")
    plant(tmp_path, names)
    os.close(os.open(os.fsencode(tmp_path) + b"/x\ny/\xff\xfe.wav", os.O_CREAT))
    corpus = scan(tmp_path, manifest_dir=None)
    assert paths(corpus) == ["x\ny/u\t1.wav", os.fsdecode(b"x\ny/\xff\xfe.wav"), "Ünï/日本 1/a b.wav"]
    assert all(corpus.path(item).exists() for item in range(3))


def test_progress_counts_every_file(tmp_path: Path) -> None:
    counted: list[int] = []
    scan(plant(tmp_path), manifest_dir=None, progress=counted.append)
    assert counted == [4, 1, 2]


def test_files_without_a_speaker_are_counted(tmp_path: Path) -> None:
    plant(tmp_path, (*FILES, "loose1.wav", "loose2.flac", "readme.md"))
    corpus = scan(tmp_path, manifest_dir=None)
    assert corpus.ignored_files == 2
    assert len(corpus) == len(FILES)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    plant(root, ("a/s1/u1.wav", "b/u1.wav"))
    plant(elsewhere, ("s9/u9.wav",))
    (root / "a" / "back").symlink_to(root / "a")
    (root / "a" / "s1" / "top").symlink_to(root)
    (root / "c").symlink_to(elsewhere)
    (root / "b" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    assert paths(scan(root, manifest_dir=None)) == ["a/s1/u1.wav", "b/gone.wav", "b/u1.wav", "c/s9/u9.wav"]


def test_a_pipe_that_is_called_audio_is_listed_for_reading_to_name_it(tmp_path: Path) -> None:
    plant(tmp_path, ("a/u.wav",))
    os.mkfifo(tmp_path / "a" / "pipe.wav")
    os.mkfifo(tmp_path / "a" / "pipe")
    assert paths(scan(tmp_path, manifest_dir=None)) == ["a/pipe.wav", "a/u.wav"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "no folders in it"),
        (("u1.wav", "u2.wav"), "2 audio files directly in it"),
        (("a/notes.txt", "b/c/notes.txt"), "no audio .* in its 2 folders"),
    ],
)
def test_no_corpus_is_an_error(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    plant(tmp_path, files)
    with pytest.raises(DataError, match=f"{tmp_path}: {message}.*<root>/<speaker>"):
        scan(tmp_path, manifest_dir=tmp_path / "manifests" if files else None)


def test_missing_root_and_file_as_root(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(DataError, match=f"{root}: no such folder"):
            scan(root, manifest_dir=tmp_path)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path)
    real = os.scandir

    def refuse(folder: str) -> object:
        if str(folder).endswith("s2"):
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"a/s2: this folder cannot be listed: Permission denied"):
        scan(tmp_path, manifest_dir=None)


def test_select_drops_and_renumbers(tmp_path: Path) -> None:
    corpus = scan(plant(tmp_path), manifest_dir=None)
    some = corpus.select(np.array([False, True, False, True, False, False, True]))
    assert paths(some) == ["a/s1/u2.WAV", "a/u0.opus", "c/u2.ogg"]
    assert some.speakers == ("a", "c")
    assert some.speaker_ids.tolist() == [0, 0, 1]
    assert some.speaker_ids.dtype == np.int32
    assert some.utterances_of(1).tolist() == [2]
    nothing = corpus.select(np.zeros(7, dtype=bool))
    assert (len(nothing), nothing.speakers) == (0, ())


def test_split_speakers(tmp_path: Path) -> None:
    corpus = scan(plant(tmp_path), manifest_dir=None)
    rest, held_out = corpus.split_speakers({"a", "c"})
    assert (rest.speakers, held_out.speakers) == (("a-b",), ("a", "c"))
    assert sorted(paths(rest) + paths(held_out)) == sorted(IN_ORDER)
    with pytest.raises(DataError, match="no such speaker: nobody"):
        corpus.split_speakers(["nobody", "a"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keep=st.lists(st.booleans(), min_size=7, max_size=7))
def test_select_equals_filtering_the_list(tmp_path: Path, keep: list[bool]) -> None:
    corpus = scan(plant(tmp_path), manifest_dir=None)
    some = corpus.select(np.array(keep))
    assert paths(some) == [path for path, is_kept in zip(IN_ORDER, keep, strict=True) if is_kept]
    speakers = [some.speakers[speaker] for speaker in some.speaker_ids]
    assert speakers == [path.split("/")[0] for path in paths(some)]
    assert set(speakers) == set(some.speakers)


def test_fingerprint_follows_the_paths_alone(tmp_path: Path) -> None:
    one = scan(plant(tmp_path / "one"), manifest_dir=None)
    two = scan(plant(tmp_path / "two"), manifest_dir=None)
    assert one.fingerprint() == two.fingerprint()
    assert one.fingerprint() != one.select(np.arange(7) > 0).fingerprint()
    (tmp_path / "two/c/u2.ogg").rename(tmp_path / "two/c/u3.ogg")
    assert scan(tmp_path / "two", manifest_dir=None).fingerprint() != one.fingerprint()


def _no_scan(*_: object) -> None:
    raise AssertionError("the tree was scanned again")


def test_manifest_is_used_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, kept = plant(tmp_path / "root", (*FILES, "loose.wav")), tmp_path / "kept"
    settle(root)
    first = scan(root, manifest_dir=kept)
    (manifest_file,) = kept.iterdir()
    assert manifest_file.name.startswith("root-")
    monkeypatch.setattr("mrl.data.corpus.list_tree", _no_scan)
    monkeypatch.chdir(tmp_path)
    for same in (root, Path("root"), tmp_path / "kept" / ".." / "root"):
        again = scan(same, manifest_dir=kept)
        assert again.root == same
        assert again.speakers == first.speakers
        assert again.ignored_files == 1
        assert again.fingerprint() == first.fingerprint()
        np.testing.assert_array_equal(again.speaker_ids, first.speaker_ids)


@pytest.mark.parametrize(
    "change", ["add", "remove", "rename", "new speaker", "remove speaker", "new session"]
)
def test_manifest_follows_changes(tmp_path: Path, change: str) -> None:
    root, kept = plant(tmp_path / "root"), tmp_path / "kept"
    settle(root)
    scan(root, manifest_dir=kept)
    if change == "add":
        (root / "a/s2/deep/er/u4.wav").touch()
    elif change == "remove":
        (root / "a/s1/u1.flac").unlink()
    elif change == "rename":
        (root / "c/u1.mp3").rename(root / "c/u9.mp3")
    elif change == "new speaker":
        plant(root, ("d/u1.wav",))
    elif change == "remove speaker":
        (root / "a-b").rename(tmp_path / "away")
    else:
        plant(root, ("a/s3/u1.wav",))
    assert paths(scan(root, manifest_dir=kept)) == paths(scan(root, manifest_dir=None)) != list(IN_ORDER)


def test_a_tree_that_has_just_changed_is_not_kept(tmp_path: Path) -> None:
    root, kept = plant(tmp_path / "root"), tmp_path / "kept"
    scan(root, manifest_dir=kept)
    assert not kept.exists()
    settle(root)
    scan(root, manifest_dir=kept)
    assert len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "other format", "pickle"])
def test_damaged_manifest_is_made_anew(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root, kept = plant(tmp_path / "root"), tmp_path / "kept"
    settle(root)
    scan(root, manifest_dir=kept)
    (path,) = kept.iterdir()
    content = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not a manifest")
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        place = content.index(b"a-b/s1")
        path.write_bytes(content[:place] + b"X" + content[place + 1 :])
    elif damage == "other format":
        with monkeypatch.context() as patch:
            patch.setattr(manifest, "_FORMAT", "0 .wav")
            path.unlink()
            scan(root, manifest_dir=kept)
        assert path.exists()
    else:
        np.save(path.with_suffix(".npy"), np.array([{"a": 1}], dtype=object), allow_pickle=True)
        path.with_suffix(".npy").rename(path)
    assert paths(scan(root, manifest_dir=kept)) == list(IN_ORDER)
    with np.load(path) as content:
        assert str(content["format"]) == manifest._FORMAT
    assert [entry.name for entry in kept.iterdir()] == [path.name]


def test_a_manifest_that_cannot_be_written_names_the_key(tmp_path: Path) -> None:
    root = plant(tmp_path / "root")
    settle(root)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"manifest .* cannot be written .*data\.cache"):
        scan(root, manifest_dir=tmp_path / "file" / "kept")


def test_speech(tmp_path: Path) -> None:
    if "MRL_SPEECH" not in os.environ:
        pytest.skip("MRL_SPEECH, a folder of real speech, is not set")
    corpus = scan(Path(os.environ["MRL_SPEECH"]) / "train", manifest_dir=tmp_path)
    assert (len(corpus), len(corpus.speakers)) == (1301, 356)
    assert all(corpus.path(item).is_file() for item in range(0, 1301, 50))
