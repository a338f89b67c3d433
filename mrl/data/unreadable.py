"""What could not be read and why: messages ``<path>: <reason>`` of :mod:`mrl.audio`, sorted into kinds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from mrl.audio import AUDIO_SUFFIXES

KINDS = {
    "missing": ("no such file", "a link that leads nowhere"),
    "without permission": ("no permission",),
    "not a file": ("a folder,", "a pipe,", "a socket,", "a device,"),
    "empty": ("empty", "it holds no samples", "it holds no audio"),
    "silent": ("silent",),
    "not finite": ("it holds NaN",),
    "not in [-1, 1]": ("it holds samples up to",),
    "cut short or not audio": ("damaged", "cut short", "not an audio format"),
    "unreadable when packed": ("it could not be read when it was packed",),
}
"""What the summary calls each kind, with the words that its reasons begin with."""

OTHER = "unreadable for other reasons"

_ENDING = "|".join(re.escape(suffix) for suffix in sorted(AUDIO_SUFFIXES))
_NAMED = re.compile(rf".*?(?:{_ENDING})(?=: )", re.IGNORECASE | re.DOTALL)


def path_of(message: str) -> str:
    """The path that ``message`` begins with: up to its audio suffix, because a name may hold a colon."""
    named = _NAMED.match(message)
    return named[0] if named else message.partition(": ")[0]


def kind_of(message: str) -> str:
    """One of `KINDS`, or `OTHER`."""
    reason = message.removeprefix(path_of(message)).removeprefix(": ")
    return next((kind for kind, beginnings in KINDS.items() if reason.startswith(beginnings)), OTHER)


def count_kinds(messages: Iterable[str]) -> dict[str, int]:
    """How many of ``messages`` are of each kind that there is, the most frequent first."""
    counts = Counter(map(kind_of, messages))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def describe_unreadable(messages: Iterable[str], num_utterances: int) -> str:
    """One sentence on the files of a corpus of ``num_utterances`` that could not be read, a message for each."""
    counts = count_kinds(messages)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    return (
        f"{sum(counts.values()):,} of {num_utterances:,} training utterances could not be read and were replaced: "
        f"{kinds}"
    )
