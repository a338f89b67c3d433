"""Randomness as a function: every random draw is fixed by (seed, what it is for, epoch or step, item).

Nothing here holds a state, so the number of workers, the number of processes and interruptions change nothing.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

Key = int | str


def seed_of(*keys: Key) -> int:
    """A 63-bit seed that depends on each of ``keys`` and on their order."""
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in keys)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_generator(*keys: Key) -> np.random.Generator:
    """A NumPy generator for ``keys``: ``numpy_generator(seed, "crop", epoch, item)``."""
    return np.random.Generator(np.random.Philox(seed_of(*keys)))


def torch_generator(*keys: Key, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on ``device`` for ``keys``."""
    generator = torch.Generator(device=device)
    generator.manual_seed(seed_of(*keys))
    return generator
