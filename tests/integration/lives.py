"""Runs of train.py in processes of their own, which die where they are told to, and a comparison of two runs.

The processes are forked from a server that has imported everything and computed nothing, so that a life begins in
a fraction of a second.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import train
from mrl.errors import MRLError
from mrl.locking import alone_in
from mrl.models.checkpoint_format import read_checkpoint
from mrl.training import feature_extraction, feature_store

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__, "mrl.evaluation.plots", "torch.utils.tensorboard"])


class Death(NamedTuple):
    """SIGKILL at the ``call``-th call (from 1) of ``target``, ``module:name`` or ``module:Class.name``.

    ``after`` the call rather than before it; ``half``: after half of the bytes of the file that it was to write to
    its last argument have been written.
    """

    target: str
    call: int
    after: bool = False
    half: bool = False


def live(
    folder: Path, arguments: list[str], death: Death | None = None, *, kill_after: float | None = None
) -> int:
    """Exit code of ``train.py arguments`` in ``folder``, negative for a signal; what it said is in said.txt.

    It dies by ``death``, or after ``kill_after`` seconds, if it has not ended before.
    """
    process = _SERVER.Process(target=_live, args=(str(folder), arguments, death))
    process.start()
    process.join(kill_after)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def _live(folder: str, arguments: list[str], death: Death | None) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    feature_store.BLOCK_ROWS, feature_extraction.BATCH = 8, 4  # several blocks of the small corpus
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if death is not None:
        _prepare(death)
    code = train.main(arguments)
    sys.stdout.flush()
    sys.exit(code)


def _prepare(death: Death) -> None:
    module, _, name = death.target.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, attribute = name.split(".")
    for part in classes:
        owner = getattr(owner, part)
    setattr(owner, attribute, _deadly(getattr(owner, attribute), death))


def _deadly(function: Callable[..., Any], death: Death) -> Callable[..., Any]:
    calls = 0

    @functools.wraps(function)
    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < death.call:
            return function(*arguments, **options)
        if death.after or death.half:
            function(*arguments, **options)
        if death.half:
            os.truncate(arguments[-1], os.path.getsize(arguments[-1]) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    return counted


@contextmanager
def held_by_another(folder: Path) -> Iterator[None]:
    """Another process has locked ``folder``, as :func:`mrl.locking.alone_in` does; locks are between processes."""
    pytest.importorskip("fcntl")
    held = _SERVER.Event()
    process = _SERVER.Process(target=_hold, args=(folder.absolute(), held))
    process.start()
    assert held.wait(60)
    try:
        yield
    finally:
        process.kill()
        process.join()


def _hold(folder: Path, held: Event) -> None:
    with alone_in(folder, MRLError("held already")):
        held.set()
        time.sleep(600)


def same(first: Any, second: Any, place: str = "") -> None:
    """Assert that two nested contents are equal, tensors bit for bit; the message names the place."""
    assert type(first) is type(second), place
    if isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for key in first:
            if key not in TIMES:
                same(first[key], second[key], f"{place}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), place
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            same(one, other, f"{place}[{number}]")
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, place
        assert torch.equal(first, second), place
    else:
        assert first == second or (first != first and second != second), f"{place}: {first} and {second}"


TIMES = {"evaluation_seconds", "run_id", "courses", "wandb_run_id", "config"}
"""What differs between two runs that compute the same."""


def same_checkpoints(first: Path, second: Path) -> None:
    """Assert that two checkpoint folders hold the same runs: weights, optimizer, scaler, scores and place."""
    names = {path.name for path in first.glob("*.pt")} - {"previous.pt"}
    assert names == {path.name for path in second.glob("*.pt")} - {"previous.pt"}
    for name in sorted(names):
        same(read_checkpoint(first / name), read_checkpoint(second / name), name)
