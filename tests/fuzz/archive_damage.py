"""Damage to zip archives, seeded: to their records, their headers, and the arrays in them."""

from __future__ import annotations

import io
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable

import numpy as np

from tests.fuzz.byte_damage import mutated_bytes

SIGNS = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6")  # of the headers of a zip archive


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
        case _:  # most often in what says how to read the rest
            described = [n for n, (path, _) in enumerate(records) if path.endswith(("data.pkl", ".npy"))]
            number = rng.choice(described or [number])
            name, record = records[number]
            records[number] = (name, mutated_bytes(rng, record))
    return archive_of(records, compression)


def mutated_zip_headers(rng: random.Random, content: bytes) -> bytes:
    """A zip archive with a wrong number in one of its headers."""
    places = [found.start() for sign in SIGNS for found in re.finditer(re.escape(sign), content)]
    if not places:
        return mutated_bytes(rng, content)
    changed = bytearray(content)
    place = rng.choice(places) + rng.randrange(4, 46)
    value = rng.choice((0, 1, 8, 255, 2**16 - 1, 2**31, 2**32 - 1))
    changed[place : place + 4] = struct.pack("<L", value)
    return bytes(changed)


def mutated_npz(rng: random.Random, content: bytes) -> bytes:
    """An .npz file with damaged bytes, records, headers or arrays."""
    match rng.randrange(4):
        case 0:
            return mutated_bytes(rng, content)
        case 1:
            return mutated_archive(rng, content)
        case 2:
            return mutated_zip_headers(rng, content)
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    out = io.BytesIO()
    save = np.savez_compressed if rng.random() < 0.1 else np.savez
    save(out, **_mutated_arrays(rng, arrays))  # type: ignore[arg-type]
    return out.getvalue()


def _mutated_arrays(rng: random.Random, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by name with one of another type, shape or with other numbers, or without it."""
    name = rng.choice(list(arrays))
    array = arrays[name]
    rest = {other: value for other, value in arrays.items() if other != name}
    numeric = array.dtype.kind in "iuf"
    choices: list[Callable[[], np.ndarray]] = [
        lambda: array.astype(np.float64) if numeric else array,
        lambda: array.astype(np.int8) if numeric else np.array(3),
        lambda: array.reshape(-1)[:-1],
        lambda: array.reshape(-1)[::-1],
        lambda: np.concatenate([array.reshape(-1)] * 2),
        lambda: array[None],
        lambda: np.zeros(array.shape, array.dtype),
        lambda: np.full(array.shape, 127, np.int8).astype(array.dtype),
        lambda: array - array.dtype.type(1) if numeric else array,
        lambda: array * array.dtype.type(7) if numeric else array,
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


def checksums_hold(content: bytes) -> bool:
    """Whether ``content`` is a zip archive whose records are all as their checksums say."""
    try:
        _records(content)
    except Exception:  # zipfile raises whatever the damage leads to
        return False
    return True


def _records(content: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(record.filename, archive.read(record)) for record in archive.infolist()]
