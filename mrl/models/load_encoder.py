"""An encoder from a checkpoint of ours, from a released file, or by the name of a released model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from mrl.console import Console
from mrl.errors import CheckpointError
from mrl.models.checkpoint_format import is_checkpoint, require_checkpoint
from mrl.models.decision_bundle import bundle_path
from mrl.models.download import resolve
from mrl.models.encoder import SpeakerEncoder, encoder_from_checkpoint
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import released_from_content
from mrl.models.released import ReleasedModel
from mrl.models.tensor_file import read_tensor_file
from mrl.models.warm_start import initialise_head, released_projection


def load_encoder(path_or_name: str | Path) -> SpeakerEncoder:
    """A speaker encoder in eval mode, float32, on the CPU.

    Args:
        path_or_name: a checkpoint that train.py wrote, a released file ``{'model_config', 'state_dict'}``, or
            the name of a released model, which is downloaded once (progress goes to standard error). What a
            file is, its content tells, not its name.

    A released model comes with its own embedding: its scores are those of the release, and its only entry in
    ``dims`` is the full size. The global random state stays as it is. `SpeakerEncoder.verify` uses the decision
    bundle that evaluate.py has written beside the file (``best.decisions.json`` for ``best.pt``).

    Raises:
        CheckpointError: no such file or name, a download that failed, or a file that is damaged, of another
            kind, or whose tensors do not fit its architecture.
    """
    path = resolve(str(path_or_name), Console(stream=sys.stderr))
    content = read_tensor_file(path)
    with torch.random.fork_rng(devices=[]):
        encoder = _encoder_in(content, path)
    encoder.decisions_file = bundle_path(path)
    return encoder


def encoder_from_released(released: ReleasedModel) -> SpeakerEncoder:
    """``released`` (in eval mode) as an encoder; modules but the head are shared, a second BatchNorm is folded in."""
    head = MatryoshkaHead(released.pooled_dim, released.embedding_dim)
    initialise_head(head, released_projection(released), "truncated")
    return SpeakerEncoder(released, head, (released.embedding_dim,)).eval()


def _encoder_in(content: object, path: Path) -> SpeakerEncoder:
    if is_checkpoint(content):
        return encoder_from_checkpoint(require_checkpoint(content, str(path)), str(path))
    if isinstance(content, Mapping) and "model_config" in content and "state_dict" in content:
        return encoder_from_released(released_from_content(content, path))
    raise CheckpointError(
        f"{path}: neither a checkpoint of train.py nor a released model, a mapping with 'model_config' and "
        f"'state_dict'; it holds {_described(content)}"
    )


def _described(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    shown = ", ".join(f"{key!r:.80}" for key in list(content)[:5])
    return f"a mapping with {shown}" if shown else "an empty mapping"
