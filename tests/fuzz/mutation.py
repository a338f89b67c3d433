"""Damage of every kind, seeded: bytes, trees of plain values, archives, tensors.

Each function takes a :class:`random.Random` and returns something new; what it was given stays as it was.
"""

from __future__ import annotations

import io
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

Place = tuple[Any, ...]

DEEP: Any = 0
for _ in range(300):
    DEEP = [DEEP]

SCALARS: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e-300, 1e308),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        " ",
        ".",
        "..",
        "/",
        "~",
        "\0",
        "a\0b",
        "\x1b[2J",
        "\ud800",
    ),
    *(
        "-1",
        "nan",
        "1e400",
        "null",
        "true",
        "é" * 3,
        "x" * 300,
        "x/" * 3000,
        "${HOME}",
        "${NOPE}",
        "${NOPE:-3}",
    ),
    *(
        "../../etc/passwd",
        "a\nb",
        "%s%n",
        "{0}",
        "<script>",
        "*",
        "&a",
        "!!python/name:os.system",
        "mean_eer",
    ),
]
VALUES: list[Any] = [
    *SCALARS,
    [],
    {},
    [[]],
    [1, 2, 3],
    ["a", "a"],
    {"name": "x"},
    {"": ""},
    [None],
    [{}],
    DEEP,
]
CHUNKS: list[bytes] = [
    *(
        b"\0",
        b"\0" * 64,
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\r\n",
        b"\r",
        b"\n\n",
        b"\t",
        b" ",
        b"\x1b",
    ),
    *(
        b"\xff",
        b"\x80",
        b"-1",
        b"1e400",
        b"9" * 400,
        b"9" * 5000,
        b"x" * 70_000,
        b"x" * 300,
        b"/",
        b"../",
        b"nan",
    ),
    *(b"- " * 50, b"[" * 2000, b"{" * 600, b"(" * 2000, b"*a", b"&a [*a]", b"<<: {a: 1}", b"!!bool maybe"),
    *(
        b"!!int ''",
        b"!!timestamp x",
        b"!!set {a, b}",
        b"? [a]\n: 1",
        b"a: a\n",
        b"extends: a.yaml\n",
        b"'",
        b'"',
        b": ",
    ),
    *(
        b"!!float x",
        b"2001-13-45",
        b"1:2:3",
        b"%YAML 9.9\n---\n",
        b"--- ",
        b"...\n",
        b"!!binary x",
        b"0x",
        b"=",
        b"1_",
    ),
]


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """``content`` with one to four pieces of damage."""
    for _ in range(rng.randint(1, 4)):
        content = rng.choice(_BYTE_DAMAGE)(rng, content)
    return content


def _flip(rng: random.Random, content: bytes) -> bytes:
    if not content:
        return b"\x01"
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set(rng: random.Random, content: bytes) -> bytes:
    place = rng.randint(0, len(content))
    return content[:place] + bytes([rng.choice((0, 10, 32, 127, 128, 255))]) + content[place + 1 :]


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
    digits = [place for place, letter in enumerate(content) if 48 <= letter <= 57]
    if not digits:
        return content + b"1"
    place = rng.choice(digits)
    return (
        content[:place]
        + rng.choice([b"-1", b"1e400", b"9" * 30, b".", b"0x", b"1e", b"NaN"])
        + content[place + 1 :]
    )


def _span(rng: random.Random, content: bytes) -> tuple[int, int]:
    start = rng.randint(0, len(content))
    return start, min(len(content), start + rng.choice((1, 2, 8, 64, 512)))


_BYTE_DAMAGE: list[Callable[[random.Random, bytes], bytes]] = [
    *(_flip, _set, _insert, _replace_line, _swap_lines, _delete, _duplicate, _splice, _truncate, _line_ends),
    _grow_number,
]


def mutated_tree(rng: random.Random, tree: Any, times: int = 3) -> Any:
    """``tree`` of mappings, lists and leaves with up to ``times`` pieces of damage to its parts."""
    for _ in range(rng.randint(1, times)):
        places = _places(tree)
        tree = _changed(tree, rng.choice(places), partial(_damaged, rng, tree))
    return tree


def _places(tree: Any, at: Place = (), most: int = 5000) -> list[Place]:
    found = [at]
    if isinstance(tree, dict):
        for key, value in tree.items():
            found += _places(value, (*at, key))
    elif isinstance(tree, list | tuple) and len(at) < 30:
        for number, value in enumerate(tree):
            found += _places(value, (*at, number))
    return found[:most]


def _changed(tree: Any, place: Place, change: Callable[[Any], Any]) -> Any:
    """A copy of ``tree`` in which ``change`` has been applied at ``place``; what does not change is shared."""
    if not place:
        return change(tree)
    part, rest = place[0], place[1:]
    if isinstance(tree, dict):
        return {key: _changed(value, rest, change) if key == part else value for key, value in tree.items()}
    return [_changed(value, rest, change) if number == part else value for number, value in enumerate(tree)]


def _damaged(rng: random.Random, whole: Any, node: Any) -> Any:
    if isinstance(node, Tensor) and rng.random() < 0.8:
        return mutated_tensor(rng, node)
    if isinstance(node, dict) and node and rng.random() < 0.7:
        return _damaged_mapping(rng, node)
    if isinstance(node, list | tuple) and node and rng.random() < 0.7:
        return _damaged_list(rng, list(node))
    choices: list[Callable[[], Any]] = [
        lambda: rng.choice(VALUES),
        lambda: rng.choice(VALUES),
        lambda: [node],
        lambda: {"name": node},
        lambda: str(node)[:200] if not isinstance(node, str) else len(node),
        lambda: -node if isinstance(node, int | float) else node,
        lambda: node * 1000 if isinstance(node, int | float | str) and not isinstance(node, bool) else node,
        lambda: [node] * rng.choice((2, 300)),
        lambda: _at(whole, rng.choice(_places(whole))),
    ]
    return rng.choice(choices)()


def _damaged_mapping(rng: random.Random, node: dict[Any, Any]) -> dict[Any, Any]:
    key = rng.choice(list(node))
    rest = {other: value for other, value in node.items() if other != key}
    choices: list[Callable[[], dict[Any, Any]]] = [
        lambda: rest,
        lambda: {**rest, f"{key}s": node[key]},
        lambda: {
            **node,
            rng.choice(["x", "name", "dim", "", "a.b", "k" * 300, "\x1b", "\ud800"]): rng.choice(VALUES),
        },
        lambda: {**node, rng.choice([1, 2**70, None, True, 1.5]): node[key]},
        lambda: {**node, key: rng.choice(VALUES)},
        lambda: {**node, key: node[rng.choice(list(node))]},
        dict,
    ]
    return rng.choice(choices)()


def _damaged_list(rng: random.Random, node: list[Any]) -> list[Any]:
    place = rng.randrange(len(node))
    choices: list[Callable[[], list[Any]]] = [
        lambda: node[:place] + node[place + 1 :],
        lambda: [*node, node[place]],
        lambda: node[::-1],
        lambda: [*node[:place], rng.choice(VALUES), *node[place + 1 :]],
        lambda: node * rng.choice((2, 500)),
        list,
    ]
    return rng.choice(choices)()


def _at(tree: Any, place: Place) -> Any:
    for part in place:
        tree = tree[part]
    return tree


def mutated_tensor(rng: random.Random, tensor: Tensor) -> Any:
    """A tensor of another type, shape, size or with other numbers; now and then none at all."""
    choices: list[Callable[[], Any]] = [
        lambda: tensor.double(),
        lambda: tensor.half(),
        lambda: tensor.long(),
        lambda: tensor.bool(),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.reshape(-1),
        lambda: tensor[None],
        lambda: tensor.reshape(-1)[:1],
        lambda: tensor.new_zeros(0),
        lambda: torch.tensor(1.0),
        lambda: torch.zeros(1).expand(10**12),
        lambda: torch.zeros(1).expand(tensor.shape) if tensor.ndim else tensor,
        lambda: torch.zeros(3, 3).to_sparse(),
        lambda: torch.empty(10**12, device="meta"),
        lambda: torch.full(tensor.shape, float("nan")),
        lambda: torch.full(tensor.shape, float("inf")),
        lambda: torch.full(tensor.shape, -1e38),
        lambda: torch.zeros(tensor.shape),
        lambda: torch.nn.Parameter(tensor.float()),
        lambda: tensor.tolist() if tensor.numel() < 100 else [1.0],
        lambda: rng.choice(VALUES),
    ]
    return rng.choice(choices)()


def mutated_archive(rng: random.Random, content: bytes) -> bytes:
    """A zip archive that is whole, checksums included, with a damaged record, name or way of storing it."""
    records = _records(content)
    number = rng.randrange(len(records))
    name, record = records[number]
    compression = zipfile.ZIP_STORED
    match rng.randrange(8):
        case 0:
            del records[number]
        case 1:
            records.append((name, mutated_bytes(rng, record)))
        case 2:
            records[number] = (rng.choice(["", "x", "../" + name, name + "\0", "data.pkl"]), record)
        case 3:
            compression = zipfile.ZIP_DEFLATED
        case 4:
            records[number] = (name, record + b"\0" * rng.choice((1, 100_000)))
        case _:
            pickles = [
                place for place, (path, _) in enumerate(records) if path.endswith(("data.pkl", ".npy"))
            ]
            number = rng.choice(pickles or [number])
            name, record = records[number]
            records[number] = (name, mutated_bytes(rng, record))
    return archive_of(records, compression)


def mutated_zip_headers(rng: random.Random, content: bytes) -> bytes:
    """A zip archive with a wrong number in one of its headers."""
    places = [
        place for sign in (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6") for place in _finds(content, sign)
    ]
    if not places:
        return mutated_bytes(rng, content)
    changed = bytearray(content)
    place = rng.choice(places) + rng.randrange(4, 46)
    value = rng.choice((0, 1, 8, 255, 2**16 - 1, 2**31, 2**32 - 1))
    changed[place : place + 4] = struct.pack("<L", value)
    return bytes(changed)


def mutated_arrays(rng: random.Random, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by name with one of another type, shape or with other numbers, or without it."""
    name = rng.choice(list(arrays))
    array = arrays[name]
    rest = {other: value for other, value in arrays.items() if other != name}
    choices: list[Callable[[], np.ndarray]] = [
        lambda: array.astype(np.float64) if array.dtype.kind in "iuf" else array,
        lambda: array.astype(np.int8) if array.dtype.kind in "iuf" else np.array(3),
        lambda: array.reshape(-1)[:-1],
        lambda: array.reshape(-1)[::-1],
        lambda: np.concatenate([array.reshape(-1)] * 2),
        lambda: array[None],
        lambda: np.zeros(array.shape, array.dtype),
        lambda: np.full(array.shape, 127, np.int8).astype(array.dtype),
        lambda: array - array.dtype.type(1) if array.dtype.kind in "iuf" else array,
        lambda: array * array.dtype.type(7) if array.dtype.kind in "iuf" else array,
        lambda: np.array("2"),
        lambda: np.array([], dtype=array.dtype),
        lambda: np.array(["a", "b"]),
    ]
    with np.errstate(all="ignore"):
        return rest if rng.random() < 0.15 else {**rest, name: rng.choice(choices)()}


def archive_of(records: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of ``records``, by name."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", compression) as archive:
        warnings.simplefilter("ignore")  # a name that stands twice is part of the damage
        for name, record in records:
            archive.writestr(zipfile.ZipInfo(name or "x"), record, compression)
    return out.getvalue()


def _records(content: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(record.filename, archive.read(record)) for record in archive.infolist()]


def _finds(content: bytes, sign: bytes) -> list[int]:
    found, place = [], content.find(sign)
    while place >= 0:
        found.append(place)
        place = content.find(sign, place + 1)
    return found
