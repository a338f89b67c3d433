"""The processes of a run that ``torchrun`` has started: who does what, and what they tell each other.

One process on its own is the usual case: everything here then returns at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mrl.errors import LostPeerError, MRLError, PeerError
from mrl.stopping import never_deaf

T = TypeVar("T")

PATIENCE = timedelta(minutes=60)
"""How long a process waits for the others; the longest wait is for the first one to scan a new corpus."""


@dataclass(frozen=True)
class Processes:
    """This process among all of a run. ``rank`` counts through all machines, ``local_rank`` through this one."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def first_then_rest(self, action: Callable[[], T]) -> T:
        """``action`` in the first process, and in the others when it is done there: they find what it has made.

        Raises what ``action`` raises; PeerError in the others where it failed in the first.
        """
        if self.world_size == 1:
            return action()
        if self.is_first:
            with self._telling():
                return action()
        self._hear()
        return action()

    def from_first(self, action: Callable[[], T]) -> T:
        """The result of ``action``, which the first process alone carries out. Errors as in `first_then_rest`."""
        if self.world_size == 1:
            return action()
        result: T | None = None
        if self.is_first:
            with self._telling():
                result = action()
        else:
            self._hear()
        shared = [result]
        dist.broadcast_object_list(shared, src=0, device=torch.device("cpu"))
        return shared[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """The ``value`` of each process, by rank, in every process."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)  # over gloo, which takes the CPU's part
        return gathered

    def mean(self, values: Tensor) -> Tensor:
        """The mean of ``values`` over the processes, in place, without the host waiting for a GPU."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world_size > 1:
            self.gather(None)

    @torch.no_grad()
    def same_state(self, module: nn.Module) -> None:
        """Give ``module`` the first process's parameters and buffers: machines round differently."""
        if self.world_size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)

    @contextmanager
    def noticing_lost_peers(self) -> Iterator[None]:
        """What torch raises within the block where another process is gone becomes LostPeerError.

        gloo notices a closed connection at once. NCCL, and a process that hangs, are noticed when `PATIENCE` is over;
        ``torchrun`` ends all processes within seconds when one has died.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not _is_of_a_lost_peer(error):
                raise
            raise LostPeerError(
                f"another process of the run has ended, or cannot be reached ({_first_line(error)}); what it said last "
                "tells why, or the log of its machine (dmesg). Go on from what was saved with --resume auto, with as "
                "many processes or others"
            ) from error

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """The others learn how the block ended."""
        try:
            yield
        except BaseException:
            dist.broadcast_object_list([False], src=0, device=torch.device("cpu"))
            raise
        dist.broadcast_object_list([True], src=0, device=torch.device("cpu"))

    def _hear(self) -> None:
        went_well = [False]
        dist.broadcast_object_list(went_well, src=0, device=torch.device("cpu"))
        if not went_well[0]:
            raise PeerError("the first process has stopped")


def _is_of_a_lost_peer(error: RuntimeError) -> bool:
    signs = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """The processes that ``torchrun`` has started, this one alone where there are no others.

    CPU tensors and objects go through gloo, GPU tensors through NCCL.
    """
    world_size = _from_environment("WORLD_SIZE", "1")
    if world_size == 1:
        yield Processes()
        return
    processes = Processes(_from_environment("RANK"), world_size, local_rank=_from_environment("LOCAL_RANK"))
    local_rank = processes.local_rank
    has_gpu = torch.cuda.is_available()
    if local_rank < torch.cuda.device_count():  # otherwise the choice of the device says what is wrong
        torch.cuda.set_device(local_rank)
    with never_deaf(), processes.noticing_lost_peers():
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout=PATIENCE)
        except ValueError as error:  # of a variable that torchrun sets
            raise MRLError(
                f"the processes cannot find each other ({error}): start them with torchrun"
            ) from None
        try:
            yield processes
        finally:
            dist.destroy_process_group()


def _from_environment(name: str, default: str | None = None) -> int:
    value = os.environ.get(name, default)
    if value is None or not value.isdecimal():
        raise MRLError(
            f"WORLD_SIZE={os.environ.get('WORLD_SIZE')} says that there are several processes, but {name} is "
            f"{'not set' if value is None else repr(value)}: start them with torchrun, or unset WORLD_SIZE"
        )
    return int(value)


def gather_rows(rows: Tensor) -> Tensor:
    """The ``rows`` [n, ...] of each process, as many from each, one below the other: [world size * n, ...].

    The gradient of a row is the sum over the processes of what each of them finds for it.
    """
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.count
        return total[start : start + ctx.count]
