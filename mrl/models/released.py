"""What the released families share: the path from waveform to embedding.

B batch, T samples, F mel bands, D feature channels, P pooled numbers, E embedding numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from mrl.audio import SAMPLE_RATE
from mrl.models.features import FrontEnd
from mrl.models.options import ReleasedOptions
from mrl.models.pooling import Pooling, build_pooling
from mrl.models.spec_augment import SpecAugment

MIN_FRAMES = 2  # the unbiased variance in the poolings does not exist for one frame


class Backbone(nn.Module):
    """Log-mel image [B, 1, F, frames] -> features [B, D, frames'] or a 2-D map that flattens to it.

    ``out_dim`` is D; ``frame_stride`` is how many mel frames the slowest stage joins into one.
    """

    out_dim: int
    frame_stride: int


class Trunk(nn.Module):
    """Waveform -> pooled statistics: a released model without its head.

    Attributes:
        pooled_dim: P.
        min_samples: the shortest waveform accepted.
        mask: SpecAugment, off until a stage configures it; on the way from `mel` to `frame_features` in `pooled`.
    """

    def __init__(self, spec: FrontEnd, backbone: Backbone, pool: Pooling) -> None:
        super().__init__()
        self.spec = spec
        self.mask = SpecAugment()
        self.backbone = backbone
        self.pool = pool
        self.pooled_dim = pool.out_dim
        self.min_samples = spec.min_samples(max(MIN_FRAMES, backbone.frame_stride))

    def mel(self, waveform: Tensor) -> Tensor:
        """Waveform [B, T], 16 kHz in [-1, 1] -> log-mel [B, F, frames], float32.

        Raises:
            ValueError: not a batch of waveforms, or shorter than `min_samples`.
        """
        if waveform.ndim != 2:
            raise ValueError(f"expected a batch of waveforms [B, T], got shape {tuple(waveform.shape)}")
        self.require_samples(waveform.shape[1])
        return self.spec(waveform)

    def require_samples(self, num_samples: int) -> None:
        """Raise a ValueError where a waveform of ``num_samples`` is shorter than `min_samples`."""
        if num_samples < self.min_samples:
            raise ValueError(
                f"a waveform of {num_samples} samples is too short: this model needs at least "
                f"{self.min_samples} ({1000 * self.min_samples / SAMPLE_RATE:.0f} ms at {SAMPLE_RATE} Hz)"
            )

    def frames_in(self, seconds: float) -> int:
        """How many mel frames ``seconds`` are, at least 1."""
        return max(1, round(seconds * SAMPLE_RATE / self.spec.hop_samples))

    def frame_features(self, mel: Tensor) -> Tensor:
        """Log-mel [B, F, frames] -> features [B, D, frames'], or 2-D maps where a ReDimNet2 ends in them."""
        return self.backbone(mel.unsqueeze(1))

    def pool_features(self, features: Tensor) -> Tensor:
        """Output of `frame_features` -> pooled statistics [B, P], float32; 2-D maps flatten channel-major."""
        return self.pool(features.flatten(1, -2))

    def pooled(self, waveform: Tensor) -> Tensor:
        """Waveform [B, T] -> pooled statistics [B, P], float32: what a head takes."""
        return self.pool_features(self.frame_features(self.mask(self.mel(waveform))))

    def forward(self, waveform: Tensor) -> Tensor:
        """The same as `pooled`."""
        return self.pooled(waveform)


class ReleasedModel(Trunk):
    """Waveform -> embedding through `spec`, `backbone`, `pool`, `bn`, `linear` and, with emb_bn, `bn2`.

    `state_dict()` has exactly the keys of the released files.

    Attributes:
        embedding_dim: E.
        hop_samples: samples per mel frame.
        model_config: the options as they were given, in the released format.
    """

    def __init__(self, options: ReleasedOptions, backbone: Backbone, model_config: Mapping[str, Any]) -> None:
        spec = FrontEnd(
            options.feat_type.removesuffix("_mel"),
            options.bands,
            options.hop_length,
            pre_emphasis=options.spec_params.do_preemph,
            normalise_signal=options.spec_params.norm_signal,
        )
        pool = build_pooling(
            options.pooling_func, backbone.out_dim, global_context=options.global_context_att
        )
        super().__init__(spec, backbone, pool)
        self.model_config = deepcopy(dict(model_config))
        self.embedding_dim = options.embed_dim
        self.hop_samples = options.hop_length
        self.bn = nn.BatchNorm1d(self.pooled_dim)
        self.linear = nn.Linear(self.pooled_dim, self.embedding_dim)
        self.bn2 = nn.BatchNorm1d(self.embedding_dim) if options.emb_bn else None

    def trunk(self) -> Trunk:
        """This model without its head; the modules are shared."""
        return Trunk(self.spec, self.backbone, self.pool)

    def project(self, pooled: Tensor) -> Tensor:
        """Pooled statistics [B, P] -> embedding [B, E], float32, not normalised."""
        # The head costs next to nothing, and under bfloat16 an embedding would keep 8 bits of each number.
        with torch.autocast(device_type=pooled.device.type, enabled=False):
            embedding = self.linear(self.bn(pooled.float()))
            return embedding if self.bn2 is None else self.bn2(embedding)

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveform [B, T], 16 kHz in [-1, 1] -> embedding [B, E], float32, not normalised."""
        return self.project(self.pooled(waveform))
