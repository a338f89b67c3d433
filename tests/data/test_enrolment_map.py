"""Models made of several utterances: the map, the list that names them, and what is wrong with either."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrl.data.enrolment_map import read_enrolment_map
from mrl.data.joining import join_corpora
from mrl.data.overlap import shared_speakers
from mrl.data.trials import TrialList, check_audio_exists, read_trials
from mrl.errors import DataError
from mrl.evaluation.bootstrap import trial_speakers
from tests.data.corpora import corpus_of

LIST = "m1 t/a/9.wav 1\nm2 t/a/9.wav 0\nm2 t/b/9.wav 1\n"
MAP = "m2 e/b/1.wav e/b/2.wav\nm1 e/a/1.wav\nunused e/c/1.wav\n"


def read(folder: Path, trials: str = LIST, enrolment_map: str | bytes = MAP) -> TrialList:
    (folder / "trials.lst").write_text(trials)
    content = enrolment_map.encode() if isinstance(enrolment_map, str) else enrolment_map
    (folder / "enroll.map").write_bytes(content)
    return read_trials(folder / "trials.lst", folder, "cn", folder / "enroll.map")


def test_models_are_the_rows_of_their_utterances(tmp_path):
    trials = read(tmp_path)
    assert trials.models is not None
    assert trials.models.names == ("m1", "m2")
    assert trials.utterances == ("t/a/9.wav", "t/b/9.wav", "e/a/1.wav", "e/b/1.wav", "e/b/2.wav")
    assert [rows.tolist() for rows in trials.models.utterances] == [[2], [3, 4]]
    assert trials.models.of_trial.tolist() == [0, 1, 1]
    assert (trials.enrolment.tolist(), trials.test.tolist()) == ([2, 3, 3], [0, 0, 1])
    assert [tuple(trial) for trial in trials.trials()] == [
        (True, "m1", "t/a/9.wav"), (False, "m2", "t/a/9.wav"), (True, "m2", "t/b/9.wav"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "enrolment_map",
    [
        MAP.replace("\n", "\r\n"),
        "\ufeff" + MAP.rstrip(),
        MAP.replace("m2 ", "m2\t"),
        "m2 e/b/1.wav\n\nm1 e/a/1.wav\nm2 ./e//b/2.wav\n",
    ],
    ids=["crlf", "mark, no last newline", "tab", "an utterance a line"],
)
def test_maps_that_mean_the_same(tmp_path, enrolment_map):
    assert read(tmp_path, enrolment_map=enrolment_map).fingerprint() == read(tmp_path).fingerprint()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("m3", "model 'm3' has no utterance"),
        ("m3 /etc/passwd", "'/etc/passwd' is not a path below"),
        ("m3 e/a/1.wav e/../../x.wav", "is not a path below"),
        ("m2 e/b/1.wav", "'e/b/1.wav' stands twice for model 'm2'"),
        ("m3 e/c/1.wav e/c/1.wav", "'e/c/1.wav' stands twice for model 'm3'"),
    ],
)
def test_a_bad_line_of_the_map_is_named(tmp_path, line, message):
    with pytest.raises(DataError) as caught:
        read(tmp_path, enrolment_map=MAP + line + "\n")
    assert str(caught.value).startswith(
        f"{tmp_path}/enroll.map: 1 bad line in this enrolment map\n  line 4: "
    )
    assert message in str(caught.value)


def test_a_model_that_is_not_in_the_map_is_named_with_its_first_line(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path, LIST + "\nm3 t/a/9.wav 0\nm3 t/b/9.wav 0\nm4 t/b/9.wav 0\n")
    assert "2 bad lines in this trial list" in str(caught.value)
    assert f"line 5: model 'm3' is not in {tmp_path}/enroll.map" in str(caught.value)
    assert "line 7: model 'm4' is not in" in str(caught.value)


def test_models_that_no_trial_names_are_checked_and_left_out(tmp_path):
    (tmp_path / "map").write_text(MAP)
    assert read_enrolment_map(tmp_path / "map", {"m1", "m9"}) == {"m1": ["e/a/1.wav"]}


def test_a_map_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "trials.lst").write_text(LIST)
    with pytest.raises(DataError, match=r"none\.map: this enrolment map cannot be read: No such file"):
        read_trials(tmp_path / "trials.lst", tmp_path, enrolment_map=tmp_path / "none.map")


def test_a_model_of_very_many_utterances_is_read_and_an_endless_one_is_not(tmp_path, monkeypatch):
    many = " ".join(f"e/b/{number:06d}.wav" for number in range(10_000))
    trials = read(tmp_path, enrolment_map=f"m1 e/a/1.wav\nm2 {many}\n")
    assert trials.models is not None
    assert len(trials.models.utterances[1]) == 10_000
    monkeypatch.setattr("mrl.data.enrolment_map._LINE_BYTES", 1000)
    with pytest.raises(DataError, match="line 2: longer than 1000 bytes"):
        read(tmp_path, enrolment_map=f"m1 e/a/1.wav\nm2 {many}\n")


def test_contradictions_are_those_of_model_and_utterance(tmp_path):
    with pytest.raises(DataError, match="line 4: the same pair is a target trial on line 1"):
        read(tmp_path, LIST + "m1 t/a/9.wav 0\n")
    with pytest.raises(DataError, match="line 4: a recording and itself are a target trial"):
        read(tmp_path, LIST + "m2 e/b/2.wav 0\n")


def test_the_fingerprint_covers_the_map(tmp_path):
    found = {
        read(tmp_path, trials, enrolment_map).fingerprint()
        for trials, enrolment_map in [
            (LIST, MAP),
            (LIST, MAP.replace("e/b/2", "e/b/3")),
            (LIST, MAP.replace(" e/b/2.wav", "")),
            (LIST.replace("m2", "m3"), MAP.replace("m2", "m3")),
            (LIST.replace("m2 t/b/9.wav 1", "m2 t/b/9.wav 0"), MAP),
        ]
    }
    assert len(found) == 5
    shared = "m1 e/a/1.wav e/b/2.wav\nm2 e/b/1.wav"
    alone, together = (read(tmp_path, enrolment_map=shared + more) for more in ("", " e/b/2.wav"))
    assert alone.utterances == together.utterances
    assert alone.fingerprint() != together.fingerprint()


def test_vectors_are_raw_tests_and_mean_directions_of_models(tmp_path):
    trials = read(tmp_path)
    embeddings = np.array([[3, 4], [0, 2], [5, 0], [0, 7], [2, 0]], dtype=np.float32)
    vectors, enrolment, test = trials.vectors(embeddings)
    np.testing.assert_allclose(vectors, [[3, 4], [0, 2], [1, 0], [0.5, 0.5]], atol=1e-7)
    assert vectors.dtype == np.float32
    assert (enrolment.tolist(), test.tolist()) == ([2, 3, 3], [0, 0, 1])


def test_vectors_are_those_of_a_loop(tmp_path):
    rng = np.random.default_rng(0)
    tests = [f"t/{number}.wav" for number in range(9)]
    members = {f"m{model}": [f"e/{model}/{item}.wav" for item in range(1 + model)] for model in range(5)}
    lines = [f"{model} {rng.choice(tests)} {number % 2}\n" for number, model in enumerate(list(members) * 4)]
    lines = sorted(set(lines), key=lines.index)
    lines = [line for line in lines if line[:-2] + "1\n" not in lines or line.endswith("1\n")]
    trials = read(tmp_path, "".join(lines), "".join(f"{m} {' '.join(u)}\n" for m, u in members.items()))
    embeddings = rng.normal(size=(len(trials.utterances), 6)).astype(np.float32)
    row = dict(zip(trials.utterances, embeddings, strict=True))
    vectors, enrolment, test = trials.vectors(embeddings)
    for place, (_, model, tested) in enumerate(trials.trials()):
        mean = np.mean([row[path] / np.linalg.norm(row[path]) for path in members[model]], axis=0)
        np.testing.assert_allclose(vectors[enrolment[place]], mean, atol=1e-6)
        np.testing.assert_array_equal(vectors[test[place]], row[tested])


def test_a_plain_list_scores_the_embeddings_themselves(tmp_path):
    (tmp_path / "plain.txt").write_text("1 a/1 a/2\n0 a/1 b/1\n")
    trials = read_trials(tmp_path / "plain.txt", tmp_path)
    embeddings = np.ones((3, 2), dtype=np.float32)
    vectors, enrolment, test = trials.vectors(embeddings)
    assert vectors is embeddings
    assert (enrolment is trials.enrolment, test is trials.test) == (True, True)


def test_a_model_speaks_as_its_utterances_do(tmp_path):
    trials = read(
        tmp_path,
        "m1 a/9.wav 1\nm2 a/9.wav 0\nm2 b/9.wav 1\n",
        "m1 a/1.wav a/2.wav\nm2 b/1.wav b/2.wav\n",
    )
    assert trials.speakers() == {"a", "b"}
    speakers = trial_speakers(trials)
    assert (speakers.enrolment.tolist(), speakers.test.tolist(), speakers.num_speakers) == (
        [0, 1, 1], [0, 0, 1], 2,
    )  # fmt: skip


def test_missing_audio_of_a_model_is_named_with_the_line_that_enrols_it(tmp_path):
    trials = read(tmp_path)
    for utterance in trials.utterances:
        (tmp_path / utterance).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / utterance).touch()
    check_audio_exists(trials)
    (tmp_path / "e/b/2.wav").unlink()
    with pytest.raises(DataError, match=r"1 of 5 audio files are missing .*: e/b/2\.wav \(line 2\);"):
        check_audio_exists(trials)


def test_models_that_are_called_like_a_training_speaker_are_shared(tmp_path):
    trials = read(
        tmp_path,
        "id00800-enroll test/id00800-a-01-001.wav 1\nid00801-enroll test/id00800-a-01-001.wav 0\n",
        "id00800-enroll enroll/id00800-enroll.wav\nid00801-enroll enroll/id00801-enroll.wav\n",
    )
    train = corpus_of(["id00001/1.wav", "id00801/1.wav"], "/elsewhere")
    assert shared_speakers(train, trials) == ["id00801"]


def test_the_names_of_models_say_nothing_where_the_files_lie_in_the_corpora(tmp_path):
    trials = read(tmp_path, "m1 b/003/1.wav 1\nm2 b/003/1.wav 0\n", "m1 b/003/2.wav\nm2 b/004/1.wav\n")
    folders = {"a": corpus_of(["m1/1.wav"], tmp_path / "a"), "b": corpus_of(["002/1.wav"], tmp_path / "b")}
    assert shared_speakers(join_corpora(folders), trials) == []
