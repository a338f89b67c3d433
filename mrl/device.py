"""The device that a run computes on."""

from __future__ import annotations

import torch

from mrl.errors import MRLError


def choose_device(name: str, precision: str = "float32", local_rank: int = 0) -> torch.device:
    """The device called ``name``: ``auto`` is a CUDA GPU if there is one, otherwise the CPU.

    Of several GPUs it is the one numbered ``local_rank``. Raises MRLError where it, or ``precision`` on it, is not
    to be had.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise MRLError("device cuda: no CUDA GPU was found; use auto or cpu")
    device = torch.device("cpu")
    if name != "cpu" and has_gpu:
        device = torch.device("cuda", local_rank)
        if local_rank >= torch.cuda.device_count():
            raise MRLError(
                f"process {local_rank} of this machine has no GPU: it has {torch.cuda.device_count()}; "
                "start no more processes than GPUs (torchrun --nproc-per-node)"
            )
    if precision == "fp16" and device.type == "cpu":
        raise MRLError("precision fp16: needs a GPU; use bf16 or float32")
    return device
