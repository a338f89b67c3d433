"""Damage to bytes, seeded: flipped, replaced, repeated, moved, cut, or grown."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.fuzz.odd_values import CHUNKS

ODD_BYTES = (0, 10, 32, 127, 128, 255)
ODD_NUMBERS = (b"-1", b"1e400", b"9" * 30, b".", b"0x", b"1e", b"NaN")
LENGTHS = (1, 2, 8, 64, 512)  # of a part that is deleted, repeated or moved


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """``content`` with one to four pieces of damage."""
    for _ in range(rng.randint(1, 4)):
        content = rng.choice(_DAMAGE)(rng, content)
    return content


def _flip(rng: random.Random, content: bytes) -> bytes:
    if not content:
        return b"\x01"
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set(rng: random.Random, content: bytes) -> bytes:
    place = rng.randint(0, len(content))
    return content[:place] + bytes([rng.choice(ODD_BYTES)]) + content[place + 1 :]


def _insert(rng: random.Random, content: bytes) -> bytes:
    place = rng.randint(0, len(content))
    return content[:place] + rng.choice(CHUNKS) + content[place:]


def _replace_line(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    lines[rng.randrange(len(lines))] = rng.choice(CHUNKS)
    return b"\n".join(lines)


def _swap_lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def _delete(rng: random.Random, content: bytes) -> bytes:
    start, stop = _span(rng, content)
    return content[:start] + content[stop:]


def _duplicate(rng: random.Random, content: bytes) -> bytes:
    start, stop = _span(rng, content)
    return content[:stop] + content[start:stop] * rng.randint(1, 3) + content[stop:]


def _splice(rng: random.Random, content: bytes) -> bytes:
    start, stop = _span(rng, content)
    place = rng.randint(0, len(content))
    return content[:place] + content[start:stop] + content[place:]


def _truncate(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randint(0, len(content))]


def _line_ends(_: random.Random, content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def _grow_number(rng: random.Random, content: bytes) -> bytes:
    digits = [place for place, letter in enumerate(content) if letter in b"0123456789"]
    if not digits:
        return content + b"1"
    place = rng.choice(digits)
    return content[:place] + rng.choice(ODD_NUMBERS) + content[place + 1 :]


def _span(rng: random.Random, content: bytes) -> tuple[int, int]:
    start = rng.randint(0, len(content))
    return start, min(len(content), start + rng.choice(LENGTHS))


_DAMAGE: list[Callable[[random.Random, bytes], bytes]] = [
    _flip, _set, _insert, _replace_line, _swap_lines, _delete, _duplicate, _splice, _truncate, _line_ends,
    _grow_number,
]  # fmt: skip
