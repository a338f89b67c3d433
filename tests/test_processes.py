"""Processes that talk to each other: who goes first, who hears what, and what an error does to the others."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn

from mrl.errors import DataError, PeerError
from mrl.processes import Processes


def test_a_process_on_its_own_does_everything_itself():
    alone = Processes()
    assert alone.is_first
    assert alone.first_then_rest(lambda: 3) == 3
    assert alone.from_first(lambda: 4) == 4
    assert alone.gather("x") == ["x"]
    assert alone.mean(torch.tensor([2.0])).tolist() == [2.0]
    with pytest.raises(DataError, match="broken"):
        alone.from_first(broken)


def broken():
    raise DataError("broken")


def conversation(rank, store, folder):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    processes = Processes(rank, 2, rank)
    note = folder / "note.txt"

    def write_then_read():
        if processes.is_first:
            note.write_text("written")
        return note.read_text()

    assert processes.first_then_rest(write_then_read) == "written"
    assert processes.from_first(lambda: f"said by {rank}") == "said by 0"
    assert processes.gather(rank * 10) == [0, 10]
    assert processes.mean(torch.tensor([float(rank), 4.0])).tolist() == [0.5, 4.0]
    torch.manual_seed(rank)
    module = nn.BatchNorm1d(3)
    module.running_mean.normal_()
    processes.same_state(module)
    means = processes.gather(module.running_mean)
    assert torch.equal(means[0], means[1])
    for method in (processes.first_then_rest, processes.from_first):
        with pytest.raises(DataError if rank == 0 else PeerError):
            method(broken)
    processes.wait()
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    multiprocessing.spawn(conversation, args=(tmp_path / "store", tmp_path), nprocs=2)
