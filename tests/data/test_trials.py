from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl.data.corpus import Corpus
from mrl.data.trials import (
    Trial,
    TrialList,
    check_audio_exists,
    generate_trials,
    read_trials,
    write_trials,
)
from mrl.errors import DataError
from tests.data.corpora import corpus_of


def grid(speakers: int, sessions: int, utterances: int) -> Corpus:
    return corpus_of(
        [
            f"id{speaker}/s{session}/u{utterance}.wav"
            for speaker in range(speakers)
            for session in range(sessions)
            for utterance in range(utterances)
        ]
    )


def written(folder: Path, content: bytes | str) -> Path:
    path = folder / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def same(one: TrialList, other: TrialList) -> bool:
    return (
        one.utterances == other.utterances
        and all(
            np.array_equal(getattr(one, column), getattr(other, column))
            for column in ("labels", "enrolment", "test")
        )
        and one.fingerprint() == other.fingerprint()
    )


def test_reads_the_usual_format(tmp_path: Path) -> None:
    path = written(tmp_path, "1 id1/a/1.wav id1/b/2.wav\n0 id1/a/1.wav id2/c/3.wav\n")
    trials = read_trials(path, "/data")
    assert trials.name == "list"
    assert trials.root == Path("/data")
    assert trials.labels.tolist() == [True, False]
    assert trials.enrolment.tolist() == [0, 0]
    assert trials.test.tolist() == [1, 2]
    assert (trials.labels.dtype, trials.enrolment.dtype, trials.test.dtype) == (bool, np.int32, np.int32)
    assert trials.utterances == ("id1/a/1.wav", "id1/b/2.wav", "id2/c/3.wav")
    assert (len(trials), trials.num_targets, trials.speakers()) == (2, 1, {"id1", "id2"})
    assert read_trials(path, "/data", name="mine").name == "mine"


@pytest.mark.parametrize(
    "content",
    [
        b"1 a/1.wav a/2.wav\r\n0 a/1.wav b/3.wav\r\n",
        b"\xef\xbb\xbf1 a/1.wav a/2.wav\n0 a/1.wav b/3.wav\n",
        b"\n1 a/1.wav a/2.wav\n\n   \n0 a/1.wav b/3.wav\n\n",
        b"1 a/1.wav a/2.wav\n0 a/1.wav b/3.wav",
        b"target a/1.wav a/2.wav\nnontarget a/1.wav b/3.wav\n",
        b"1\ta/1.wav\ta/2.wav\n  0   a/1.wav \t b/3.wav  \n",
        b"1 ./a//1.wav a/2.wav\n0 a/1.wav b/./3.wav\n",
    ],
    ids=["crlf", "byte order mark", "blank lines", "no last newline", "words", "blanks", "detours"],
)
def test_accepts_what_means_the_same(tmp_path: Path, content: bytes) -> None:
    plain = [Trial(True, "a/1.wav", "a/2.wav"), Trial(False, "a/1.wav", "b/3.wav")]
    assert same(read_trials(written(tmp_path, content), tmp_path), TrialList.from_trials("", tmp_path, plain))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b"1 a/1.wav",
            "2 columns instead of the 3 of `label enrolment test` or `enrolment test label`: '1 a/1.wav'",
        ),
        (b"1 a/1.wav a/2.wav 0.5", "4 columns"),
        (b"yes a/1.wav a/2.wav", "the label is 'yes' instead of 1, 0, target or nontarget"),
        (
            b"a/1.wav a/2.wav target",
            "the label is 'a/1.wav' instead of 1, 0, target or nontarget, in the first column",
        ),
        (b"0 a/1.wav a/2.wav", "the same pair is a target trial on line 1"),
        (b"0 a/2.wav a/1.wav", "the same pair is a target trial on line 1"),
        (b"0 a/7.wav a/7.wav", "a recording and itself are a target trial, not a nontarget trial"),
        (b"1 /etc/passwd a/2.wav", "'/etc/passwd' is not a path below the list's root"),
        (b"1 a/1.wav a/../../2.wav", "'a/../../2.wav' is not a path below"),
        (b"1 a/1.wav .", "'.' is not a path below"),
        (b"1 a/1.wav a/\xff.wav", "not UTF-8"),
        (b"1 a/1.wav a/\x00.wav", "is not a path below"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: bytes, message: str) -> None:
    path = written(tmp_path, b"1 a/1.wav a/2.wav\n\n" + line + b"\n0 a/1.wav b/3.wav\n")
    with pytest.raises(DataError) as caught:
        read_trials(path, tmp_path)
    assert str(caught.value).startswith(f"{path}: 1 bad line in this trial list\n  line 3: ")
    assert message in str(caught.value)


def test_many_bad_lines_are_counted_and_five_named(tmp_path: Path) -> None:
    path = written(tmp_path, "1 a/1.wav a/2.wav\n" + "oops\n" * 12)
    with pytest.raises(DataError) as caught:
        read_trials(path, tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("12 bad lines in this trial list")
    assert [line.split(":")[0] for line in lines[1:6]] == [f"  line {number}" for number in range(2, 7)]
    assert lines[6:] == ["  and 7 more"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("1 a/1 a/2\n1 a/1 a/3\n", "all 2 trials are target"),
        ("0 a/1 b/2\n", "all 1 trials are nontarget"),
    ],
)
def test_useless_lists_are_errors(tmp_path: Path, content: str, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=f"{path}: .*{message}"):
        read_trials(path, tmp_path)


def test_a_missing_file_is_named_with_its_line_and_what_lies_there_instead(tmp_path: Path) -> None:
    path = written(tmp_path, "1 a/1.wav a/2.wav\n\n0 a/1.wav b/3.wav\n1 b/3.wav b/4\n0 id1-enroll b/3.wav\n")
    for name in ("a/1.wav", "a/2.flac", "b/4.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError) as caught:
        check_audio_exists(read_trials(path, tmp_path))
    message = str(caught.value)
    assert "4 of 5 audio files are missing" in message
    assert (
        "a/2.wav (line 1, a/2.flac is there), b/3.wav (line 3), b/4 (line 4, b/4.wav is there), id1-enroll (line 5);"
    ) in message
    assert message.endswith("the list must name files with the suffixes that they have")
    (tmp_path / "a/2.flac").unlink()
    (tmp_path / "b/4.wav").rename(tmp_path / "b/4")
    with pytest.raises(
        DataError, match=r"names that are no files may be models, which need an enrolment map$"
    ):
        check_audio_exists(read_trials(path, tmp_path))


def test_missing_file_and_folder_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(DataError, match=f"{path}: this trial list cannot be read"):
            read_trials(path, tmp_path)


def test_an_endless_line_stops_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    with path.open("wb") as file:
        file.write(b"1 a/1.wav a/2.wav\n")
        file.truncate(1 << 33)  # 8 GiB of zero bytes without a newline, none of it on the disk
    with pytest.raises(DataError, match="line 2: longer than 65536 bytes"):
        read_trials(path, tmp_path)


def test_missing_audio_is_one_error(tmp_path: Path) -> None:
    utterances = [f"a/{number}.wav" for number in range(10)]
    trials = TrialList.from_trials(
        "mine",
        tmp_path,
        [Trial(number == 0, "a/0.wav", utterance) for number, utterance in enumerate(utterances)],
    )
    (tmp_path / "a").mkdir()
    for utterance in utterances:
        (tmp_path / utterance).touch()
    check_audio_exists(trials)
    (tmp_path / "a/3.wav").unlink()
    with pytest.raises(DataError, match=rf"mine: 1 of 10 audio files .* {tmp_path}: a/3\.wav; "):
        check_audio_exists(trials)
    for number in range(4, 10):
        (tmp_path / f"a/{number}.wav").unlink()
    with pytest.raises(DataError, match=r"7 of 10 .*: a/3\.wav, .*, a/7\.wav, \.\.\.;"):
        check_audio_exists(trials)


def test_made_list_is_what_was_asked_for() -> None:
    corpus = grid(speakers=6, sessions=3, utterances=4)
    trials = generate_trials(corpus, seed=1, name="x", targets_per_speaker=10, nontargets_per_target=2)
    assert (len(trials), trials.num_targets) == (6 * 30, 60)
    assert trials.root == corpus.root
    as_enrolment: Counter[tuple[str, bool]] = Counter()
    as_test: Counter[str] = Counter()
    for is_target, enrolment, test in trials.trials():
        assert (enrolment.split("/")[0] == test.split("/")[0]) == is_target
        if is_target:
            assert enrolment.split("/")[1] != test.split("/")[1]
        else:
            as_test[test.split("/")[0]] += 1
        as_enrolment[enrolment.split("/")[0], is_target] += 1
    assert set(as_enrolment.values()) == {10, 20}
    assert max(as_test.values()) - min(as_test.values()) <= 6


def test_made_list_depends_on_seed_and_name_alone() -> None:
    corpus = grid(4, 2, 3)

    def make(seed: int, name: str) -> str:
        return generate_trials(
            corpus, seed=seed, name=name, targets_per_speaker=3, nontargets_per_target=1
        ).fingerprint()

    assert make(1, "x") == make(1, "x")
    assert len({make(1, "x"), make(2, "x"), make(1, "y")}) == 3


def test_one_session_gives_targets_within_it() -> None:
    corpus = corpus_of(["a/1.wav", "a/2.wav", "b/s/1.wav", "b/s/2.wav", "c/1.wav"])
    trials = generate_trials(corpus, seed=1, name="x", targets_per_speaker=5, nontargets_per_target=1)
    targets = [{trial.enrolment, trial.test} for trial in trials.trials() if trial.is_target]
    assert targets == [{"a/1.wav", "a/2.wav"}, {"b/s/1.wav", "b/s/2.wav"}]


def test_few_recordings_give_all_there_is() -> None:
    corpus = corpus_of(["a/1.wav", "a/2.wav", "b/1.wav", "b/2.wav"])
    trials = generate_trials(corpus, seed=1, name="x", targets_per_speaker=50, nontargets_per_target=50)
    assert (len(trials), trials.num_targets) == (6, 2)


def test_a_speaker_with_very_many_utterances_keeps_all_sessions() -> None:
    paths = [f"a/long/{number:05d}.wav" for number in range(3000)] + ["a/short/1.wav", "b/1.wav"]
    trials = generate_trials(
        corpus_of(paths), seed=3, name="x", targets_per_speaker=20, nontargets_per_target=1
    )
    targets = [trial for trial in trials.trials() if trial.is_target]
    assert len(targets) == 20
    assert all("a/short/1.wav" in trial for trial in targets)


@pytest.mark.parametrize(
    ("paths", "message"),
    [(["a/1.wav", "a/2.wav"], "two speakers or more"), (["a/1.wav", "b/1.wav"], "two utterances")],
)
def test_impossible_lists_are_errors(paths: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        generate_trials(corpus_of(paths), seed=1, name="x", targets_per_speaker=1, nontargets_per_target=1)


_names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0\t\n\r.", exclude_categories=["Z", "C"]), min_size=1
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tree=st.dictionaries(
        _names,
        st.sets(st.tuples(st.sampled_from("st"), st.integers(0, 9)), min_size=1),
        min_size=2,
        max_size=6,
    ),
    seed=st.integers(0, 9),
    targets=st.integers(1, 6),
    ratio=st.integers(1, 3),
)
def test_made_lists_are_sound_and_survive_the_disk(
    tmp_path: Path, tree: dict[str, set[tuple[str, int]]], seed: int, targets: int, ratio: int
) -> None:
    paths = [
        f"{speaker}/{session}/a {number}.wav" for speaker, files in tree.items() for session, number in files
    ]
    corpus = corpus_of(paths)
    if all(len(files) == 1 for files in tree.values()):
        with pytest.raises(DataError, match="two utterances"):
            generate_trials(corpus, seed=seed, name="x", targets_per_speaker=1, nontargets_per_target=1)
        return
    trials = generate_trials(
        corpus, seed=seed, name="x", targets_per_speaker=targets, nontargets_per_target=ratio
    )
    pairs = [frozenset((trial.enrolment, trial.test)) for trial in trials.trials()]
    assert all(len(pair) == 2 for pair in pairs)
    assert len(set(pairs)) == len(pairs)
    assert set(trials.utterances) <= set(paths)
    assert 0 < trials.num_targets < len(trials) <= trials.num_targets * (1 + ratio)
    sessions = {speaker: {session for session, _ in files} for speaker, files in tree.items()}
    per_speaker: Counter[str] = Counter()
    for is_target, enrolment, test in trials.trials():
        speaker = enrolment.split("/")[0]
        assert (speaker == test.split("/")[0]) == is_target
        if is_target:
            per_speaker[speaker] += 1
            assert len(sessions[speaker]) == 1 or enrolment.split("/")[1] != test.split("/")[1]
    assert max(per_speaker.values()) <= targets
    write_trials(trials, tmp_path / "x.txt")
    again = read_trials(tmp_path / "x.txt", corpus.root)
    assert again.name == trials.name
    assert same(again, trials)


@pytest.mark.parametrize("utterance", ["a/tab\t.wav", "a/line\n.wav", " a/1.wav", os.fsdecode(b"a/\xff.wav")])
def test_a_path_that_a_list_cannot_hold_is_an_error(tmp_path: Path, utterance: str) -> None:
    trials = TrialList.from_trials("x", tmp_path, [Trial(True, utterance, "a/2.wav")])
    with pytest.raises(DataError, match="cannot stand in a trial list"):
        write_trials(trials, tmp_path / "x.txt")
    assert not (tmp_path / "x.txt").exists()


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trials = TrialList.from_trials("x", tmp_path, [Trial(True, "a/1.wav", "a/2.wav")])
    with pytest.raises(DataError, match=r"x\.txt: this trial list cannot be written"):
        write_trials(trials, tmp_path / "file" / "x.txt")


def test_official_list() -> None:
    if "MRL_SPEECH" not in os.environ:
        pytest.skip("MRL_SPEECH, a folder of real speech and lists, is not set")
    speech = Path(os.environ["MRL_SPEECH"])
    trials = read_trials(speech / "trials/voxceleb1_o_cleaned.txt", speech / "nowhere", "vox1-o")
    assert (len(trials), len(trials.utterances), len(trials.speakers())) == (37_611, 4_708, 40)
    with pytest.raises(DataError, match="4708 of 4708 audio files are missing"):
        check_audio_exists(trials)
    own = read_trials(speech / "trials/val_trials.txt", speech / "val")
    assert (len(own), own.num_targets) == (1680, 560)
    check_audio_exists(own)
