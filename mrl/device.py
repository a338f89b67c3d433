"""The device that a run computes on."""

from __future__ import annotations

import torch

from mrl.errors import MRLError


def choose_device(name: str, precision: str = "float32") -> torch.device:
    """The device called ``name``: ``auto`` is a CUDA GPU if there is one, otherwise the CPU.

    Raises MRLError where it, or ``precision`` on it, is not to be had.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise MRLError("device cuda: no CUDA GPU was found; use auto or cpu")
    device = torch.device("cpu" if name == "cpu" or not has_gpu else "cuda")
    if precision == "fp16" and device.type == "cpu":
        raise MRLError("precision fp16: needs a GPU; use bf16 or float32")
    return device
