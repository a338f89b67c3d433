"""What the damage puts in: plain values that few readers expect, and pieces of text and bytes."""

from __future__ import annotations

from functools import reduce
from typing import Any

DEEP: Any = reduce(lambda inner, _: [inner], range(300), 0)
"""A list in a list, 300 times over."""

# fmt: off
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 7, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e-300, 1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", ".", "..", "/", "~", "\0", "a\0b", "\x1b[2J", "\ud800",
    "-1", "nan", "1e400", "null", "true", "é" * 3, "x" * 300, "x/" * 3000, "${HOME}", "${NOPE}", "${NOPE:-3}",
    "../../etc/passwd", "a\nb", "%s%n", "{0}", "<script>", "*", "&a", "!!python/name:os.system", "mean_eer",
    [], {}, [[]], [1, 2, 3], ["a", "a"], {"name": "x"}, {"": ""}, [None], [{}], DEEP,
]
"""In the place of a part of a tree of plain values."""

CHUNKS: list[bytes] = [
    # Bytes that no text holds, ends of lines, numbers and long runs.
    b"\0", b"\0" * 64, b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\r\n", b"\r", b"\n\n", b"\t", b" ", b"\x1b",
    b"\xff", b"\x80", b"-1", b"1e400", b"9" * 400, b"9" * 5000, b"x" * 70_000, b"x" * 300, b"/", b"../", b"nan",
    # YAML: nesting, references, tags, keys and quotes.
    b"- " * 50, b"[" * 2000, b"{" * 600, b"(" * 2000, b"*a", b"&a [*a]", b"<<: {a: 1}", b"!!bool maybe",
    b"!!int ''", b"!!timestamp x", b"!!set {a, b}", b"? [a]\n: 1", b"a: a\n", b"extends: a.yaml\n", b"'", b'"', b": ",
    b"!!float x", b"2001-13-45", b"1:2:3", b"%YAML 9.9\n---\n", b"--- ", b"...\n", b"!!binary x", b"0x", b"=", b"1_",
]
"""In the middle of a file, or in the place of one of its lines."""
# fmt: on
