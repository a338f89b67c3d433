"""The speaker encoder: a released backbone with a Matryoshka head.

Shapes: B batch, T samples at 16 kHz, N files, P pooled statistics, D widest prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrl.audio import SAMPLE_RATE, read
from mrl.errors import CheckpointError
from mrl.models.budget import budget_for
from mrl.models.decision_bundle import MAKE_ONE, DecisionBundle, Verification, read_bundle
from mrl.models.encoder_input import mel_batches, naming, waveform_batch
from mrl.models.fingerprint import fingerprint_of
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import build_released, require_fitting
from mrl.models.released import ReleasedModel

WIDEST = 65_536
"""The widest embedding that is read from a file."""


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

    The ``embed`` methods work in eval mode and float32, whatever the mode of the module, and keep no gradients.
    They return embeddings of unit length, on the encoder's device, so that the product of two is their cosine.
    Any ``dim`` in 1..D is accepted; the default is D, the full size.

    Attributes:
        dims: the prefixes that it was trained for, ascending; the last is D. A released model has D alone.
        sample_rate: of the waveforms that it takes, Hz; files of other rates are resampled.
        model_config: the backbone's options in the released format.
        decisions_file: where the decision bundle lies, if there is one; None for an encoder that is from no file.

    Example:
        >>> encoder = mrl.load_encoder("checkpoints/best.pt")
        >>> small = encoder.embed_file("speech.wav", dim=64)  # [64], unit length
        >>> score, same_speaker = encoder.verify("a.wav", "b.wav", dim=64, false_accept_rate=0.01)
    """

    sample_rate: int = SAMPLE_RATE
    dims: tuple[int, ...]
    decisions_file: Path | None = None
    _decisions: DecisionBundle | None = None

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

    def embed(self, waveform: Tensor | NDArray[Any], dim: int | None = None) -> Tensor:
        """Embeddings [B, dim] of ``waveform`` [B, T] in [-1, 1] at 16 kHz, or [dim] of one [T].

        Raises:
            TypeError: neither a tensor nor a numpy array, or not of floating point.
            ValueError: ``dim`` outside 1..D, or a waveform with another number of dimensions, with NaN or
                infinity, or too short for the network.
        """
        dim = self._prefix(dim)
        batch = waveform_batch(waveform).to(self._device)
        if len(batch) == 0:  # which the STFT does not take
            return torch.empty(0, dim, device=self._device)
        with self._inference():
            unit = self._unit(self.backbone(batch), dim)
        return unit[0] if waveform.ndim == 1 else unit

    def embed_file(self, path: str | Path, dim: int | None = None) -> Tensor:
        """Embedding [dim] of a whole audio file.

        Raises AudioError, naming the file, for one that cannot be read or is too short, and ValueError for a
        ``dim`` outside 1..D.
        """
        dim = self._prefix(dim)
        with naming(path):
            return self.embed(read(path), dim)

    def embed_files(
        self, paths: Iterable[str | Path], dim: int | None = None, batch_size: int = 32, workers: int = 4
    ) -> Tensor:
        """Embeddings [N, dim] of whole audio files, in the order of ``paths``.

        The same as `embed_file` of each, to about 1e-6, and faster: files with equally many mel frames go
        through the network together, while threads read the next ones. Nothing is padded.

        Args:
            paths: the files; their headers are all read first.
            dim: the prefix.
            batch_size: files in a batch, at most; fewer where they are longer than ten seconds.
            workers: threads that read files. Up to twice as many waveforms are held in memory.

        Raises:
            AudioError: a file that cannot be read or is too short; names it.
            ValueError: ``dim`` outside 1..D, or a ``batch_size`` or ``workers`` below 1.
            TypeError: one path in place of several.
        """
        dim = self._prefix(dim)
        if isinstance(paths, str | Path):
            raise TypeError(f"embed_files takes several paths, not one ({paths}): use embed_file, or a list")
        if batch_size < 1 or workers < 1:
            raise ValueError(f"batch_size ({batch_size}) and workers ({workers}) must be at least 1")
        files = [Path(path) for path in paths]
        embeddings = torch.empty(len(files), dim, device=self._device)
        with self._inference():
            for places, mel in mel_batches(self.backbone, files, batch_size, workers):
                pooled = self.backbone.pool_features(self.backbone.frame_features(mel))
                embeddings[places] = self._unit(pooled, dim)
        return embeddings

    def verify(
        self,
        a: Tensor | NDArray[Any] | str | Path,
        b: Tensor | NDArray[Any] | str | Path,
        dim: int | None = None,
        false_accept_rate: float = 0.01,
    ) -> Verification:
        """Whether two recordings are of one speaker: their cosine, and the decision by the bundle's threshold.

        Args:
            a: a waveform [T] in [-1, 1] at 16 kHz, or the path of an audio file.
            b: the other one, likewise; the order of the two plays no part.
            dim: the prefix, one that the bundle holds.
            false_accept_rate: share of pairs of different speakers that is accepted, as measured on the bundle's
                list; one that the bundle holds.

        Raises:
            CheckpointError: there is no decision bundle, it is damaged or of other weights, or it lacks the prefix
                or the rate; it then names those that it has.
            AudioError, TypeError, ValueError: as `embed_file` and `embed` do.
        """
        dim = self._prefix(dim)
        decisions = self.decisions
        if decisions is None:
            if self.decisions_file is None:
                raise CheckpointError(
                    "verify needs thresholds, and only an encoder that was loaded from a checkpoint of train.py has "
                    "a place for them; compare embeddings of this one, with a threshold of your own"
                )
            raise CheckpointError(
                f"verify needs thresholds, and there is no decision bundle ({self.decisions_file}); make one: "
                f"{MAKE_ONE}, which takes checkpoints of train.py (--set stages=[] makes one of a released model)"
            )
        rule = decisions.rule(dim, false_accept_rate)
        first, second = (self._embed_recording(recording, dim).double().cpu() for recording in (a, b))
        cosine = first @ second / (first.square().sum() * second.square().sum()).sqrt()
        return rule(cosine.item())

    @property
    def decisions(self) -> DecisionBundle | None:
        """The decision bundle, or None where there is none; read, and compared with the weights, at its first use.

        Raises CheckpointError for one that is damaged or that was made for other weights.
        """
        if self._decisions is None and self.decisions_file is not None and self.decisions_file.exists():
            self._decisions = read_bundle(self.decisions_file, fingerprint_of(self))
        return self._decisions

    def _embed_recording(self, recording: Tensor | NDArray[Any] | str | Path, dim: int) -> Tensor:
        if isinstance(recording, str | Path):
            return self.embed_file(recording, dim)
        if getattr(recording, "ndim", 1) != 1:
            raise ValueError(f"verify takes a waveform [T], not of shape {list(recording.shape)}")
        return self.embed(recording, dim)

    @property
    def _device(self) -> torch.device:
        return self.head.linear.weight.device

    def _prefix(self, dim: int | None) -> int:
        """``dim``, or the widest where it is None; ValueError for one outside 1..D."""
        widest = self.head.embedding_dim
        if dim is not None and not 1 <= dim <= widest:
            raise ValueError(f"dim {dim} is outside 1..{widest}")
        return widest if dim is None else dim

    @contextmanager
    def _inference(self) -> Iterator[None]:
        # Not inference_mode: embeddings made in it could never be the input of a layer that is trained.
        # TF32 convolutions, the default on recent GPUs, would leave ten bits of each product.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.no_grad(), evaluating(self), exact, torch.autocast(self._device.type, enabled=False):
            yield

    def _unit(self, pooled: Tensor, dim: int) -> Tensor:
        """Pooled statistics [B, P] -> unit-length prefixes [B, dim]."""
        return nn.functional.normalize(self.head(pooled)[:, :dim], dim=1)


def encoder_from_checkpoint(content: dict[str, Any], source: str, dropout: float = 0.0) -> SpeakerEncoder:
    """The encoder in the ``content`` of a checkpoint; ``source`` names it in errors; ``dropout`` is for training."""
    model_config, dims, state = _entries(content, source)
    released = build_released(model_config, source=source, most_numbers=budget_for(state))
    encoder = SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, dims[-1], dropout), dims)
    require_fitting(encoder.state_dict(), state, source)
    encoder.load_state_dict(state, strict=True)
    return encoder.eval()


def _entries(content: Mapping[str, Any], source: str) -> tuple[dict[str, Any], list[int], dict[str, Tensor]]:
    """What an encoder is made of, its types checked."""
    model_config, dims, state = (content.get(key) for key in ("model_config", "dims", "encoder"))
    if not isinstance(model_config, Mapping) or not all(isinstance(key, str) for key in model_config):
        raise CheckpointError(f"{source}: damaged, its model_config is no mapping of options")
    if (
        not isinstance(dims, list)
        or not dims
        or any(type(dim) is not int or not 1 <= dim <= WIDEST for dim in dims)
        or dims != sorted(set(dims))
    ):
        raise CheckpointError(
            f"{source}: damaged, its prefixes must be ascending integers from 1 to {WIDEST}, not {dims!r:.100}"
        )
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CheckpointError(f"{source}: damaged, its encoder is no mapping of names to tensors")
    return dict(model_config), dims, dict(state)
