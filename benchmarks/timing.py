"""Fair measurements on a machine that others use too: contenders take turns, and medians are compared."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch


class Timing(NamedTuple):
    """Seconds of each round of one contender."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def milliseconds(self) -> str:
        """The median, and the range of the rounds."""
        low, high = min(self.seconds) * 1e3, max(self.seconds) * 1e3
        return f"{self.median * 1e3:,.4g} ({low:,.4g}-{high:,.4g})"


def alternate(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int = 5, warm_ups: int = 1
) -> dict[str, Timing]:
    """Time each contender once a round, the first to run changing from round to round.

    A slow minute of the machine so slows all of them, and what is said is a ratio. With a GPU the device is
    waited for before and after each.
    """
    names = list(contenders)
    for _ in range(warm_ups):
        for name in names:
            contenders[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            _wait()
            started = time.perf_counter()
            contenders[name]()
            _wait()
            seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


def ratio(slow: Timing, fast: Timing) -> float:
    """How many times as fast ``fast`` is: the median over the rounds of their quotient."""
    return float(np.median(np.divide(slow.seconds, fast.seconds)))


def peak_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    """How far the memory of a process rises above where it stood, while it runs ``function(*arguments)``.

    Measured in a fresh process, which imports the module of ``function``. The function returns a callable:
    what comes before that (weights, inputs, a first small call that loads libraries) does not count.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_peak, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        rise: int = receiver.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__}: its process ended without a result") from None
    finally:
        process.join()
    return rise


def peak_on(device: str, function: Callable[..., Callable[[], object]], *arguments: Any) -> int:
    """`peak_bytes` on the CPU; on a GPU, how far its allocated memory rises, in this process."""
    if device == "cpu":
        return peak_bytes(function, *arguments)
    work = function(*arguments)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() - before


def _measure_peak(sender: Any, function: Callable[..., Callable[[], object]], arguments: Any) -> None:
    work = function(*arguments)
    before = _forget_peak()
    work()
    sender.send(_peak_resident_bytes() - before)


def _forget_peak() -> int:
    """Bytes that the process holds now; where the system allows it, the peak begins here again."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak_resident_bytes()


def _peak_resident_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
