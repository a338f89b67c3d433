"""Memory of the device that a run computes on: how much there is for this process, and how much it takes. Bytes."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

GIBI = 2**30
_RESET_PEAK = "5"  # see clear_refs in proc_pid_clear_refs(5)
_CONTROL_GROUPS = (  # limit and use: version 2, version 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
_TEXTS = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


class Memory(NamedTuple):
    """What this process may take in all, takes now, and took at most since `reset_peak`."""

    capacity: int
    held: int
    peak: int


def measure(device: torch.device) -> Memory:
    """On a GPU what PyTorch's tensors take; on a CPU what the process does, beside what others leave."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_allocated(device)
        # What the allocator has reserved and does not use is free for tensors too.
        capacity = free + torch.cuda.memory_reserved(device)
        return Memory(capacity, held, torch.cuda.max_memory_allocated(device))
    own = _kibibytes(Path("/proc/self/status"))
    held = own.get("VmRSS", 0)
    return Memory(_available() + held, held, max(held, own.get("VmHWM", 0)))


def reset_peak(device: torch.device) -> None:
    """Let the peak begin anew, after giving back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError, AttributeError):  # glibc alone keeps, and gives back, what was freed
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # without it the peak is that of the whole run
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory is short, on a GPU or a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


def _available() -> int:
    """What the machine, and this process's control group, have left."""
    left = [_kibibytes(Path("/proc/meminfo")).get("MemAvailable", 0)]
    for limit, used in _CONTROL_GROUPS:
        with suppress(OSError, ValueError):  # no such group, or "max": no limit
            left.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    return max(0, min(left))


def _kibibytes(table: Path) -> dict[str, int]:
    """The lines ``name: number kB`` of a file of /proc, in bytes; nothing where there is none."""
    try:
        lines = [line.split() for line in table.read_text().splitlines()]
    except OSError:
        return {}
    return {
        words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if len(words) == 3 and words[2] == "kB"
    }
