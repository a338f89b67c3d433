"""Messages of unreadable files are sorted into kinds, whatever the names of the files."""

from __future__ import annotations

import pytest

from mrl.data.unreadable import OTHER, count_kinds, describe_unreadable, kind_of, path_of


@pytest.mark.parametrize(
    ("message", "path", "kind"),
    [
        ("id1/a.wav: no such file", "id1/a.wav", "missing"),
        ("id1/12:30.WAV: empty (0 bytes)", "id1/12:30.WAV", "empty"),
        ("a: b.flac: silent: every sample is zero", "a: b.flac", "silent"),
        ("empty.m4a: damaged: its header says 1 samples per second", "empty.m4a", "cut short or not audio"),
        ("silent.wav: something new", "silent.wav", OTHER),
        ("notes.txt: not an audio format that can be read (.wav)", "notes.txt", "cut short or not audio"),
        ("x.wav.flac: it holds NaN or infinity", "x.wav.flac", "not finite"),
    ],
)
def test_path_and_kind_of_a_message(message: str, path: str, kind: str) -> None:
    assert (path_of(message), kind_of(message)) == (path, kind)


def test_kinds_are_counted_the_most_frequent_first() -> None:
    messages = ["a.wav: silent: x", "b.wav: no such file", "c.wav: no such file", "d.wav: cut short: y"]
    assert list(count_kinds(messages).items()) == [
        ("missing", 2),
        ("cut short or not audio", 1),
        ("silent", 1),
    ]
    assert describe_unreadable(messages, 5994) == (
        "4 of 5,994 training utterances could not be read and were replaced: "
        "2 missing, 1 cut short or not audio, 1 silent"
    )
