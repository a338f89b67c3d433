"""Column orders, labels, and whatever else may stand in a file that is called a trial list."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl.data.trials import Trial, read_trials
from mrl.errors import DataError

PLAIN = [Trial(True, "a/1.wav", "a/2.wav"), Trial(False, "a/1.wav", "b/3.wav")]


def read(folder: Path, content: bytes, enrolment_map: bytes | None = None) -> list[Trial]:
    (folder / "list.txt").write_bytes(content)
    if enrolment_map is None:
        return list(read_trials(folder / "list.txt", folder).trials())
    (folder / "map.txt").write_bytes(enrolment_map)
    return list(read_trials(folder / "list.txt", folder, "x", folder / "map.txt").trials())


@pytest.mark.parametrize("labels", [(b"1", b"0"), (b"target", b"nontarget"), (b"tgt", b"imp")])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_both_orders_say_the_same(tmp_path, labels, end):
    yes, no = labels
    first = [yes + b" a/1.wav a/2.wav", no + b" a/1.wav b/3.wav"]
    last = [b"a/1.wav a/2.wav " + yes, b"a/1.wav\tb/3.wav\t" + no]
    for lines in (first, last):
        assert read(tmp_path, b"".join(line + end for line in lines)) == PLAIN
        assert read(tmp_path, end.join(lines)) == PLAIN
        assert read(tmp_path, b"\xef\xbb\xbf" + end + end.join(lines)) == PLAIN


@pytest.mark.parametrize(
    ("lines", "number", "which"),
    [
        ([b"1 a/1 a/2", b"0 a/1 b/1", b"a/1 a/3 1"], 3, "first column as on line 1"),
        ([b"a/1 a/2 target", b"nontarget a/1 b/1", b"a/1 a/3 target"], 2, "third column as on line 1"),
        ([b"1 a 0", b"1 a/1 a/2", b"a/1 a/3 1"], 3, "first column as on line 2"),
    ],
)
def test_one_order_holds_for_the_whole_file(tmp_path, lines, number, which):
    with pytest.raises(DataError) as caught:
        read(tmp_path, b"\n".join(lines))
    message = str(caught.value)
    assert "1 bad line in this trial list" in message
    assert f"\n  line {number}: the label is " in message
    assert message.endswith(which)


def test_lines_that_could_be_either_follow_the_first_that_could_not(tmp_path):
    assert read(tmp_path, b"1 2 1\n0 2 0\na 2 0\n") == [
        Trial(True, "1", "2"), Trial(False, "0", "2"), Trial(False, "a", "2"),
    ]  # fmt: skip
    assert read(tmp_path, b"1 2 1\n0 2 0\n1 a b\n") == [
        Trial(True, "2", "1"), Trial(False, "2", "0"), Trial(True, "a", "b"),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"line 2: the first and the third column are both labels"):
        read(tmp_path, b"\n1 2 1\n0 2 0\n")


def test_a_file_without_labels_names_both_columns(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path, b"a/1 a/2 yes\na/1 b/2 no\n")
    assert "2 bad lines" in str(caught.value)
    assert (
        "line 1: the label is 'a/1' or 'yes' instead of 1, 0, target or nontarget, in the first or the third"
    ) in str(caught.value)


def test_the_wide_encodings_of_windows_are_named(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be"):
        with pytest.raises(DataError, match="line 1: UTF-16; save the file as UTF-8"):
            read(tmp_path, "\ufeff1 a/1.wav a/2.wav\r\n".encode(encoding))


def test_a_path_may_hold_blanks_in_both_orders(tmp_path):
    for line in (b"1\ta b/1.wav\ta b/2.wav", b"a b/1.wav\ta b/2.wav\t1"):
        first, _ = read(tmp_path, line + b"\n" + line.replace(b"/2.", b"/3.").replace(b"1", b"0"))
        assert first == Trial(True, "a b/1.wav", "a b/2.wav")


_likely = st.lists(
    st.one_of(
        st.sampled_from(
            [b"0", b"1", b"target", b"imp", b"a/1", b"b/2", b"..", b"/", b"\xff", b"\t", b" ", b"\n", b"\r\n"]
        ),
        st.binary(max_size=4),
    ),
    max_size=60,
).map(b" ".join)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=400), _likely), st.none() | st.binary(max_size=60) | _likely)
def test_bytes_at_random_are_a_list_or_a_data_error_at_once(tmp_path, content, enrolment_map):
    started = time.monotonic()
    message, trials = f"{tmp_path}: none", PLAIN
    try:
        trials = read(tmp_path, content, enrolment_map)
    except DataError as error:
        message = str(error)
    assert message.startswith(str(tmp_path))
    assert len(message) < 5000
    assert {trial.is_target for trial in trials} == {True, False}
    assert time.monotonic() - started < 20.0


def test_endless_blanks_and_endless_bad_lines_take_bounded_time(tmp_path):
    started = time.monotonic()
    with pytest.raises(DataError, match="250000 bad lines"):
        read(tmp_path, b"oops\n" * 250_000)
    with pytest.raises(DataError, match="empty"):
        read(tmp_path, b"\n" * 1_000_000)
    assert time.monotonic() - started < 60.0
