"""What an encoder takes: waveforms, checked, and files as batches of equally long log-mel images.

Padding would change what is pooled over time, and so the embedding; masks would have to reach every convolution,
attention and statistic of a backbone. Only files with the same number of mel frames share a batch, and the mel
image of each is made alone.

Shapes: B batch, T samples at 16 kHz, F mel bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl.audio import SAMPLE_RATE, num_samples
from mrl.errors import AudioError
from mrl.models.released import Trunk
from mrl.read_ahead import map_ahead, read_ahead

_USUAL_SECONDS = 10  # of a file in a full batch; longer ones share a batch with fewer
_MANY_FRAMES = 1000  # so many that their samples are not the front end's least


def waveform_batch(waveform: Tensor | NDArray[Any]) -> Tensor:
    """``waveform`` [T] or [B, T] as a float32 tensor [B, T], on the device where it is.

    Raises:
        TypeError: neither a tensor nor a numpy array, or its numbers are not floating point.
        ValueError: another number of dimensions, NaN or infinity, nothing but zeros, or [T, channels].
    """
    if isinstance(waveform, Tensor):
        floating = waveform.is_floating_point()
    elif isinstance(waveform, np.ndarray):
        floating = np.issubdtype(waveform.dtype, np.floating)
    else:
        raise TypeError(f"a waveform is a torch tensor or a numpy array, not {type(waveform).__name__}")
    if not floating:
        raise TypeError(
            f"the waveform's numbers are {waveform.dtype}: give floating-point samples in [-1, 1] "
            "(divide int16 by 32768)"
        )
    if waveform.ndim not in (1, 2):
        raise ValueError(f"a waveform is [T] or a batch [B, T], not of shape {list(waveform.shape)}")
    if isinstance(waveform, np.ndarray):
        # Copied, because tensors cannot share negative strides, foreign byte orders or read-only memory.
        with np.errstate(over="ignore"):
            waveform = torch.from_numpy(np.array(waveform, dtype=np.float32, order="C"))
    batch = torch.atleast_2d(waveform).float()
    if not batch.isfinite().all():
        raise ValueError("the waveform holds NaN or infinity")
    if len(batch) > batch.shape[1] > 0:
        raise ValueError(
            f"a batch [B, T] of shape {list(batch.shape)} has more waveforms than samples: "
            "give [channels, T] of a file that was read as [T, channels], or the mean of its channels"
        )
    if batch.shape[1] and not batch.any(dim=1).all():
        raise ValueError("silent: every sample of a waveform is zero")
    return batch


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Turn the ValueError that a model raises about a waveform into an AudioError that names its file."""
    try:
        yield
    except ValueError as error:
        raise AudioError(f"{path}: {error}") from None


def mel_batches(
    trunk: Trunk,
    paths: Sequence[Path],
    batch_size: int,
    workers: int,
    *,
    max_samples: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[list[int], Tensor]]:
    """Log-mel images [B, F, frames] of files, each batch with the places of its files in ``paths``.

    The longest come first, so that a memory that is too small shows at once. All headers are read before.

    Args:
        trunk: makes the images, on its device.
        paths: files to read.
        batch_size: files in a batch, at most; of files longer than ten seconds there are fewer, so that a
            batch is never longer than this many times ten seconds, or than one file.
        workers: threads that read; at most twice as many waveforms are held beside those of a batch.
        max_samples: read no more than the first so many of each file; None: whole files.
        rank: which of ``world_size`` processes this is. Each gets whole batches, as much audio as the others.
        world_size: processes; together they get each file once.

    Raises:
        AudioError: a file that cannot be read or is too short for the model; names it.
    """
    lengths = _lengths(trunk, paths, workers, max_samples)
    largest = max(1, min(batch_size, -(-len(paths) // world_size)))
    batches = _share(_equally_long(trunk, lengths, largest), lengths, rank, world_size)
    order = [place for batch in batches for place in batch]
    waveforms = read_ahead([paths[place] for place in order], workers, max_samples)
    for places in batches:
        mels = [_mel(trunk, w, paths[p]) for p, w in zip(places, islice(waveforms, len(places)), strict=True)]
        if all(mel.shape == mels[0].shape for mel in mels):
            yield places, torch.stack(mels)
        else:  # a file was replaced after its header was read
            yield from (([place], mel[None]) for place, mel in zip(places, mels, strict=True))


def _lengths(trunk: Trunk, paths: Sequence[Path], workers: int, max_samples: int | None) -> list[int]:
    """Samples that will be read of each file, from its header."""
    lengths = []
    for path, length in zip(paths, map_ahead(num_samples, paths, workers), strict=True):
        length = length if max_samples is None else min(length, max_samples)
        with naming(path):
            trunk.require_samples(length)
        lengths.append(length)
    return lengths


def _equally_long(trunk: Trunk, lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Places in ``lengths`` in batches of equally many frames, the longest first."""
    batches: list[list[int]] = []
    frames = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        room = max(1, min(batch_size, batch_size * _USUAL_SECONDS * SAMPLE_RATE // lengths[place]))
        if not batches or len(batches[-1]) >= room or whole_frames(trunk, lengths[place]) != frames:
            batches.append([])
            frames = whole_frames(trunk, lengths[place])
        batches[-1].append(place)
    return batches


def _share(batches: list[list[int]], lengths: Sequence[int], rank: int, world_size: int) -> list[list[int]]:
    """The batches of one of several processes: in turn each goes to the process with the least audio so far."""
    assert 0 <= rank < world_size
    loads = [0] * world_size
    mine = []
    for batch in batches:
        least = loads.index(min(loads))
        loads[least] += sum(lengths[place] for place in batch)
        if least == rank:
            mine.append(batch)
    return mine


def whole_frames(trunk: Trunk, length: int) -> int:
    """Mel frames of a waveform of ``length`` samples, cut to whole strides of the backbone."""
    frames = _MANY_FRAMES + (length - trunk.spec.min_samples(_MANY_FRAMES)) // trunk.spec.hop_samples
    return frames // trunk.backbone.frame_stride * trunk.backbone.frame_stride


def _mel(trunk: Trunk, waveform: NDArray[np.float32], path: Path) -> Tensor:
    """The image [F, frames] of one waveform [T], cut to whole strides as the backbone would cut it."""
    device = next(trunk.parameters()).device
    with naming(path):
        mel = trunk.mel(torch.from_numpy(waveform).to(device)[None])[0]
    return mel[:, : whole_frames(trunk, len(waveform))]
