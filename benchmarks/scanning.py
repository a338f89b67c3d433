"""A corpus of a million files: scanned, reloaded from its manifest, and shared by the workers that load crops.

python -m benchmarks.scanning
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks.table import Claim, Table
from benchmarks.timing import alternate, peak_bytes, ratio
from mrl.data.corpus import Corpus, scan
from mrl.randomness import numpy_generator

COMMAND = "python -m benchmarks.scanning"
FOLDER_SECONDS = 0.001  # to open a folder over a network

_SESSIONS, _FILES = 28, 6  # of a speaker, and of a session
_MEMORY_FILE_SYSTEM = Path("/dev/shm")
_PATHS_TOUCHED = 100_000
_MEGABYTE = 1e6
_LONG_AGO = 60.0  # seconds; a tree that has just changed is not kept in a manifest


def run(*, quick: bool = False) -> list[Table]:
    speakers, slow_speakers, rounds = (20, 4, 1) if quick else (6000, 300, 3)
    with tempfile.TemporaryDirectory(dir=_roomy(speakers)) as folder, tempfile.TemporaryDirectory() as kept:
        root, slow_root = Path(folder) / "all", Path(folder) / "few"
        plant(root, speakers)
        plant(slow_root, slow_speakers)
        manifests, pickled = Path(kept) / "manifests", Path(kept) / "paths.pickle"
        corpus = scan(root, manifest_dir=manifests)
        pickled.write_bytes(pickle.dumps(plain_scan(root)))
        return [
            _scans(root, slow_root, len(corpus), rounds),
            _reloads(root, manifests, pickled, len(corpus), rounds),
            _workers(corpus, pickled),
        ]


def plain_scan(root: Path) -> list[str]:
    """What is usually done: walk, collect, sort."""
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    return sorted(paths)


def plant(root: Path, speakers: int) -> None:
    """Empty files, 168 for each speaker, named as VoxCeleb names them."""
    past = time.time() - _LONG_AGO
    for speaker in range(speakers):
        for session in range(_SESSIONS):
            folder = f"{root}/id{speaker:05d}/{31 * speaker + session:09x}qZ"
            os.makedirs(folder)
            for number in range(_FILES):
                os.close(os.open(f"{folder}/{number:05d}.m4a", os.O_CREAT | os.O_WRONLY))
            os.utime(folder, (past, past))
        os.utime(f"{root}/id{speaker:05d}", (past, past))
    os.utime(root, (past, past))


def private_growth(touch: Callable[[], object]) -> int | None:
    """Bytes of memory that a forked process has come to hold for itself alone after ``touch``; None where unknown."""
    if not Path("/proc/self/smaps_rollup").exists():
        return None
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_private, args=(sender, touch))
    process.start()
    grown: int = receiver.recv()
    process.join()
    return grown


def touch_paths(path_of: Callable[[int], str], items: NDArray[np.int64]) -> None:
    """Look up the paths of ``items``, as a worker does."""
    for item in items:
        path_of(int(item))


def random_items(size: int) -> NDArray[np.int64]:
    """Numbers below ``size``, in no order."""
    return numpy_generator(0, "touched").integers(size, size=_PATHS_TOUCHED)


def table_bytes(corpus: Corpus) -> int:
    """Of the arrays that list a corpus."""
    return corpus.path_bytes.nbytes + corpus.path_offsets.nbytes + corpus.speaker_ids.nbytes


def _scans(root: Path, slow_root: Path, size: int, rounds: int) -> Table:
    here = alternate(
        {"plain": partial(plain_scan, root), "ours": partial(scan, root, manifest_dir=None)},
        rounds=rounds,
        warm_ups=0,  # both have been through this tree
    )
    with _slow_folders():
        there = alternate(
            {"plain": partial(plain_scan, slow_root), "ours": partial(scan, slow_root, manifest_dir=None)},
            rounds=rounds,
            warm_ups=0,
        )
    few = len(plain_scan(slow_root))
    cases = {
        f"{size:,} files, this machine, cached": here,
        f"{few:,} files, {FOLDER_SECONDS * 1e3:g} ms to open a folder": there,
    }
    faster = {name: ratio(case["plain"], case["ours"]) for name, case in cases.items()}
    rows = [
        [name, f"{case['plain'].median:.2f}", f"{case['ours'].median:.2f}", f"{faster[name]:.1f}"]
        for name, case in cases.items()
    ]
    claim = Claim(
        "scan over a slow file system, times as fast as os.walk", ratio(there["plain"], there["ours"]), 4.0
    )
    return Table(
        "Scanning a corpus",
        COMMAND,
        ["tree", "os.walk and sort, s", "ours, s", "ratio"],
        rows,
        [claim],
        "Ours also tells speakers apart, skips hidden files, ends loops of links and keeps the time of every "
        "folder, so that it need not scan again. Threads pay where folders have to be waited for.",
    )


def _reloads(root: Path, manifests: Path, pickled: Path, size: int, rounds: int) -> Table:
    timings = alternate(
        {
            "plain": lambda: pickle.loads(pickled.read_bytes()),
            "ours": partial(scan, root, manifest_dir=manifests),
        },
        rounds=rounds,
    )
    plain_peak = peak_bytes(_plain_reload, pickled) / _MEGABYTE
    peak = peak_bytes(_reload, root, manifests) / _MEGABYTE
    seconds = timings["ours"].median
    return Table(
        f"Reloading the list of {size:,} files",
        COMMAND,
        ["", "s", "peak MB"],
        [
            ["pickled list of paths", f"{timings['plain'].median:.2f}", f"{plain_peak:,.0f}"],
            ["ours: manifest, every folder's time compared", f"{seconds:.2f}", f"{peak:,.0f}"],
        ],
        [
            Claim("seconds to reload the manifest", seconds, 2.0, at_most=True),
            Claim("peak MB of reloading it", peak, 500.0, at_most=True),
        ],
    )


def _workers(corpus: Corpus, pickled: Path) -> Table:
    paths: list[str] = pickle.loads(pickled.read_bytes())
    ours = private_growth(partial(touch_paths, corpus.relative_path, random_items(len(corpus))))
    plain = private_growth(partial(touch_paths, paths.__getitem__, random_items(len(paths))))
    share = [] if ours is None else [ours / table_bytes(corpus)]
    return Table(
        f"Memory that a forked worker takes for itself, after {_PATHS_TOUCHED:,} paths",
        COMMAND,
        ["", "MB"],
        [["list of paths", _megabytes(plain)], ["ours: arrays", _megabytes(ours)]],
        [Claim("worker's own memory as a share of the table", value, 0.1, at_most=True) for value in share],
        "Reading a string writes its count of references, so that its page is copied; arrays have no counts.",
    )


def _reload(root: Path, manifests: Path) -> Callable[[], object]:
    return partial(scan, root, manifest_dir=manifests)


def _plain_reload(pickled: Path) -> Callable[[], object]:
    return lambda: pickle.loads(pickled.read_bytes())


def _measure_private(sender: Any, touch: Callable[[], object]) -> None:
    gc.collect()  # which writes to every object that it inspects, whosever turn it is
    before = _private_bytes()
    touch()
    sender.send(_private_bytes() - before)


def _private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


@contextmanager
def _slow_folders() -> Iterator[None]:
    """Every folder takes a while to open, as where each is a question to a server; os.walk waits too."""
    real = os.scandir

    def slow(*arguments: Any) -> Any:
        time.sleep(FOLDER_SECONDS)
        return real(*arguments)

    with mock.patch.object(os, "scandir", slow):
        yield


def _roomy(speakers: int) -> Path | None:
    """Where so many files are made and removed in seconds; None: where temporary files lie."""
    needed = speakers * _SESSIONS * (_FILES + 1)
    if not os.access(_MEMORY_FILE_SYSTEM, os.W_OK):
        return None
    return _MEMORY_FILE_SYSTEM if os.statvfs(_MEMORY_FILE_SYSTEM).f_favail > 2 * needed else None


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / _MEGABYTE:,.1f}"


if __name__ == "__main__":
    for table in run():
        table.show()
