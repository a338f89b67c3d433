"""Fingerprints of modules: the same for the same numbers, another for any other."""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import nn

from mrl.models.fingerprint import fingerprint_of


def test_it_is_the_hash_of_names_kinds_and_bytes():
    module = nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0]]))
        module.bias.fill_(0.5)
    content = (
        b"weight torch.float32 (1, 2)" + bytes.fromhex("0000803f000000c0")
        + b"bias torch.float32 (1,)" + bytes.fromhex("0000003f")
    )  # fmt: skip
    assert fingerprint_of(module) == hashlib.sha256(content).hexdigest()


def test_every_number_name_shape_and_kind_counts():
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    before = fingerprint_of(module)
    assert fingerprint_of(copy.deepcopy(module).train()) == before
    changed = [copy.deepcopy(module) for _ in range(4)]
    changed[0][0].bias.data[2] += 1e-7
    changed[1][1].running_var[0] += 1e-6
    changed[2].half()
    changed[3][0].weight.data = changed[3][0].weight.data.t().contiguous()
    prints = {fingerprint_of(other) for other in changed}
    prints.add(fingerprint_of(nn.Sequential(nn.Identity(), *copy.deepcopy(module))))
    assert len(prints) == 5
    assert before not in prints


def test_memory_order_plays_no_part():
    module = nn.Conv2d(3, 4, 3)
    before = fingerprint_of(module)
    assert fingerprint_of(module.to(memory_format=torch.channels_last)) == before
