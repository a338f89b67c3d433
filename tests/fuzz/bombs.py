"""Small inputs that claim a great deal, read one after the other in a process of its own with little memory.

``python bombs.py FOLDER`` writes one JSON line for each: its name, the message, the seconds, and by how much the peak
of memory rose. The address space may grow by 1 GB; each bomb would take far more.
"""

from __future__ import annotations

import io
import json
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrl.config_file import load_config, load_environment
from mrl.data.manifest import load_manifest
from mrl.data.trials import read_trials
from mrl.errors import MRLError
from mrl.models.decision_bundle import read_bundle
from mrl.models.load_encoder import load_encoder
from mrl.models.pretrained import build_released
from mrl.packed import TABLE, open_table
from tests.conftest import TINY
from tests.fuzz.crafted_pickles import called, doubled, nested, tensor

GIGABYTE = 1 << 30
ROOM = 1 << 30

Bomb = Callable[[Path], object]


def written(path: Path, content: bytes, size: int = 0) -> Path:
    """A file that begins with ``content``, and goes on with zeros that take no disk up to ``size`` bytes."""
    with path.open("wb") as file:
        file.write(content)
        if size:
            file.truncate(size)
    return path


def laughs(folder: Path) -> object:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return load_config(written(folder / "c.yaml", "\n".join(lines).encode()))


def merged_laughs(folder: Path) -> object:
    lines = ["a0: &a0 {k0: x}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}], k{n}: x}}" for n in range(1, 12)]
    return load_config(written(folder / "c.yaml", "\n".join(lines).encode()))


def chain(folder: Path) -> object:
    for number in range(2000):
        written(folder / f"c{number}.yaml", f"extends: c{number + 1}.yaml\n".encode())
    return load_config(folder / "c0.yaml")


def trials(content: bytes, size: int = 0) -> Bomb:
    return lambda folder: read_trials(written(folder / "list.txt", content, size), folder)


def enrolment(content: bytes, size: int = 0) -> Bomb:
    def read(folder: Path) -> object:
        written(folder / "list.txt", b"m a.wav target\nm b.wav nontarget\n")
        return read_trials(
            folder / "list.txt", folder, enrolment_map=written(folder / "list.map", content, size)
        )

    return read


def config(content: bytes, size: int = 0, overrides: tuple[str, ...] = ()) -> Bomb:
    return lambda folder: load_config(written(folder / "c.yaml", content, size), overrides)


def archive(
    path: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED, zeros: int = 0
) -> Path:
    """A zip archive; ``zeros`` more bytes stand in a record of their own."""
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as file:
        for name, record in records.items():
            file.writestr(name, record)
        if zeros:
            with file.open("x/data/9", "w", force_zip64=True) as record:
                for _ in range(zeros >> 20):
                    record.write(bytes(1 << 20))
    return path


def pickled(content: bytes, **more: Any) -> Bomb:
    """A checkpoint whose pickle is ``content``."""
    records = {"x/data.pkl": content, "x/byteorder": b"little", "x/version": b"3\n", "x/data/0": bytes(4000)}
    return lambda folder: load_encoder(archive(folder / "best.pt", records, **more))


def saved(content: Any) -> Bomb:
    def read(folder: Path) -> object:
        torch.save(content, folder / "best.pt")
        return load_encoder(folder / "best.pt")

    return read


def released(**changes: Any) -> Bomb:
    def read(folder: Path) -> object:
        state = build_released(TINY, seed=1).state_dict()
        return saved({"model_config": {**TINY, **changes}, "state_dict": state})(folder)

    return read


def wide_head(folder: Path) -> object:
    content = {
        "format": "redimnet-mrl", "version": 2, "config": {}, "model_config": TINY, "dims": [8, 10**9],
        "encoder": {}, "lists": {},
    }  # fmt: skip
    return saved(content)(folder)


def many_records(folder: Path) -> object:
    """A directory of two million records, of 46 bytes each and a name."""
    entry = b"PK\1\2" + bytes(24) + struct.pack("<HHHHHLL", 1, 0, 0, 0, 0, 0, 0) + b"x"
    directory = entry * 2_000_000
    end = b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 65535, 65535, len(directory), 0, 0)
    return load_encoder(written(folder / "best.pt", directory + end))


def lying_array(folder: Path) -> object:
    """An array in a manifest and a packed corpus that claims a terabyte."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)})
    records = {"format.npy": out.getvalue(), "speakers.npy": out.getvalue()}
    path = archive(folder / TABLE, records)
    assert load_manifest(path, folder) is None
    return open_table(folder)


def compressed_arrays(folder: Path) -> object:
    path = archive(folder / TABLE, {}, zipfile.ZIP_DEFLATED, zeros=ROOM // 2)
    assert load_manifest(path, folder) is None
    return open_table(folder)


def decisions(content: bytes, size: int = 0) -> Bomb:
    return lambda folder: read_bundle(written(folder / "best.decisions.json", content, size), "0" * 64)


def environment(folder: Path) -> object:
    load_environment(written(folder / ".env", b"A=b\n", GIGABYTE))
    return None


KEYS = b"".join(b"k%d: 1\n" % number for number in range(20_000))


BOMBS: dict[str, tuple[Bomb, str]] = {  # each with words of its message
    "aliases": (laughs, "aliases"),
    "merge keys": (merged_laughs, "aliases"),
    "nested YAML": (config(b"[" * 300_000), "nested too deeply"),
    "nested mappings": (config(b"".join(b" " * n + b"a:\n" for n in range(1000))), "nested"),
    "nested override": (config(b"seed: 1\n", overrides=("seed=" + "[" * 100_000,)), "nested too deeply"),
    "deep key": (config(b"seed: 1\n", overrides=("a." * 100_000 + "b=1",)), "expected key=value"),
    "large configuration": (config(b"seed: 1\n", 200 << 20), "larger than 1 MB"),
    "endless configuration": (lambda _: load_config("/dev/zero"), "larger than 1 MB"),
    "many keys": (config(KEYS), "more than 10000 values"),
    "many files": (chain, "more than 20 files"),
    "long line": (trials(b"1 a.wav b.wav\n0 a.wav ", GIGABYTE), "line 2: longer than 65536 bytes"),
    "many blank lines": (trials(b"\n" * 2_000_000), "is empty"),
    "labels alone": (trials(b"1 1 1\n" * 1_000_000), "cannot be told"),
    "bad lines": (trials(b"1\n" * 300_000), "and 299995 more"),
    "long line of a map": (enrolment(b"m a.wav ", GIGABYTE), "line 1: longer than"),
    "line of many columns": (enrolment(b"m" + b" a" * 1_900_000), "longer than"),
    "repeated number": (pickled(tensor(10**12, 0)), "claims 4000000000000 bytes, and 4000 are there"),
    "terabyte of numbers": (pickled(tensor(10**12, 1)), "not a readable checkpoint"),
    "terabyte of storage": (pickled(tensor(10**12, 1, 10**12)), "not a readable checkpoint"),
    "bytes from a number": (pickled(called(b"builtins\nbytearray", 10**10)), "it holds bytearray"),
    "tensor from a number": (pickled(called(b"torch\nFloatTensor", 10**10)), "it holds FloatTensor"),
    "storage from a number": (
        pickled(called(b"torch.storage\nUntypedStorage", 10**10)),
        "it holds UntypedStorage",
    ),
    "compressed records": (
        pickled(b"\x80\x02].", compression=zipfile.ZIP_DEFLATED, zeros=ROOM // 2),
        "a record is compressed",
    ),
    "many lists": (pickled(b"\x80\x02(" + b"]" * 10_000_000 + b"t."), "more than 500000 parts"),
    "many references": (
        pickled(b"\x80\x02]q\0(X\1\0\0\0aq\1" + b"h\1" * 1_000_000 + b"e."),
        "it holds a list",
    ),
    "nested pickle": (pickled(nested()), "nests its parts"),
    "doubled pickle": (pickled(doubled()), "repeats or nests"),
    "large pickle": (saved(["speaker"] * 35_000_000), "at most 67108864 are read"),
    "many records": (many_records, "its directory claims"),
    "channels": (released(C=10**9), "expected 1 to 4096"),
    "bands": (released(F=10**9), "expected 1 to 512"),
    "embedding": (released(embed_dim=10**9), "expected 1 to 65536"),
    "everything at its limit": (released(C=4096, F=512, embed_dim=65_536), "a network of more than"),
    "blocks": (released(stages_setup=[[1, 10**9, 1, [[3, 3]], None]]), "from 0 to 64"),
    "stages": (released(stages_setup=[[1, 1, 1, [[3, 3]], None]] * 100_000), "32 at most"),
    "expansion": (released(stages_setup=[[1, 1, 1e300, [[3, 3]], None]]), "at most 64"),
    "prefix": (wide_head, "integers from 1 to 65536"),
    "lying array": (lying_array, "this table is damaged"),
    "compressed arrays": (compressed_arrays, "this table is damaged"),
    "large decisions": (decisions(b"{", GIGABYTE), "not a decision bundle"),
    "nested decisions": (decisions(b"[" * 1_000_000), "it is no JSON"),
    "large environment": (environment, "larger than 1 MB"),
}


def main(folder: Path) -> None:
    """Read every bomb and print what came of it."""
    build_released(TINY)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    for number, (name, (bomb, _)) in enumerate(BOMBS.items()):
        place = folder / str(number)
        place.mkdir()
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            bomb(place)
            message = "accepted"
        except MRLError as error:
            message = str(error)
        except Exception as error:
            message = f"FAILED {type(error).__name__}: {error}"
        rise = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        seconds = time.process_time() - began
        print(
            json.dumps({"name": name, "message": message[:3000], "seconds": seconds, "rise": rise}),
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
