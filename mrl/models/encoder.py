"""The speaker encoder: a released backbone with a Matryoshka head.

Shapes: B batch, T samples at 16 kHz, P pooled statistics, D widest prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrl.audio import SAMPLE_RATE, read
from mrl.errors import CheckpointError
from mrl.models.checkpoint_format import read_checkpoint
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import build_released
from mrl.models.released import ReleasedModel


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in eval mode for the time; afterwards each of its parts is in the mode that it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


class SpeakerEncoder(nn.Module):
    """Waveform -> one embedding whose prefixes are speaker embeddings of their own.

    Attributes:
        dims: the prefixes that it was trained for, ascending.
        sample_rate: of the waveforms that it takes, Hz.
        model_config: the backbone's options in the released format.

    Example:
        >>> encoder = load_encoder("checkpoints/best.pt")
        >>> small = encoder.embed_file("speech.wav", dim=64)  # [64], unit length
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, released: ReleasedModel, head: MatryoshkaHead, dims: Sequence[int]) -> None:
        super().__init__()
        if list(dims) != sorted(set(dims)) or dims[-1] != head.embedding_dim:
            raise ValueError(f"prefixes {list(dims)} must ascend to the head's {head.embedding_dim} numbers")
        self.backbone = released.trunk()
        self.head = head
        self.dims = tuple(dims)
        self.model_config: dict[str, Any] = released.model_config

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveform [B, T] in [-1, 1] -> raw widest embedding [B, D], float32."""
        return self.head(self.backbone(waveform))

    @torch.inference_mode()
    def embed(self, waveform: Tensor, dim: int | None = None) -> Tensor:
        """Unit-length embeddings [B, dim] of ``waveform`` [B, T] (or [dim] of [T]); ``dim`` defaults to the widest.

        Works in eval mode, whatever the mode of the module. Raises ValueError for a prefix outside 1..D or a
        waveform that is too short.
        """
        widest = self.head.embedding_dim
        dim = widest if dim is None else dim
        if not 1 <= dim <= widest:
            raise ValueError(f"dim {dim} is outside 1..{widest}")
        device = self.head.linear.weight.device
        with evaluating(self):
            raw = self(waveform.to(device, torch.float32).reshape(-1, waveform.shape[-1]))
        unit = nn.functional.normalize(raw[:, :dim], dim=1)
        return unit[0] if waveform.ndim == 1 else unit

    def embed_file(self, path: str | Path, dim: int | None = None) -> Tensor:
        """Unit-length embedding [dim] of a whole audio file. Raises AudioError for one that cannot be read."""
        return self.embed(torch.from_numpy(read(path)), dim)


def load_encoder(path: str | Path) -> SpeakerEncoder:
    """The encoder of a checkpoint of ours, in eval mode, on the CPU. Raises CheckpointError."""
    return encoder_from_checkpoint(read_checkpoint(path), str(path))


def encoder_from_checkpoint(content: dict[str, Any], source: str, dropout: float = 0.0) -> SpeakerEncoder:
    """The encoder in the ``content`` of a checkpoint; ``source`` names it in errors; ``dropout`` is for training."""
    released = build_released(content["model_config"], source=source)
    dims = content["dims"]
    encoder = SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, dims[-1], dropout), dims)
    try:
        encoder.load_state_dict(content["encoder"], strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{source}: its weights do not fit its architecture: {error}") from None
    return encoder.eval()
