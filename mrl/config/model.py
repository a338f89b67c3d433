"""The model, its prefixes and the loss."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from mrl.config.base import Count, NonNegative, Positive, Section, Share, require_default

LossType = Literal["aam", "am", "sphereface2", "triplet", "supcon"]
PAIR_LOSSES = ("triplet", "supcon")
"""Losses over pairs within a batch: they have no class vectors and no classifier to train."""


class ModelConfig(Section):
    pretrained: str
    """A released checkpoint: a path, or a name of the registry, which is downloaded once."""
    head_init: Literal["rotated", "truncated", "random"] = "rotated"
    """Start of the new head: the released head turned so that prefixes lose least; as it is; or fresh."""
    warm_start_utterances: Count = 20_000
    """At most so many training utterances are embedded to find the rotation and the class vectors."""
    dropout: Share = 0.0
    """Share of pooled statistics dropped before the head while it trains."""
    teacher: str | None = None
    """Released checkpoint that stages with a ``teacher_weight`` stay close to; null: ``pretrained`` itself."""


class PrefixConfig(Section):
    dim: Count
    """Numbers in this prefix of the embedding."""
    weight: Positive = 1.0
    """Weight of its loss in the sum over prefixes."""
    margin: NonNegative | None = None
    """Its own peak margin; null: that of the stage."""
    scale: Positive | None = None
    """Its own scale; null: ``loss.scale``."""


class LossConfig(Section):
    type: LossType = "aam"
    """Over class vectors: aam (ArcFace), am (CosFace), sphereface2. Over pairs in a batch: triplet, supcon."""
    margin: NonNegative = 0.2
    """Radians for aam, cosine otherwise (squared distance for triplet); unused by supcon. A stage may set its own."""
    scale: Positive = 30.0
    """Factor on the cosines."""
    subcenters: Count = 1
    """Class vectors per speaker; the nearest one counts."""
    label_smoothing: Share = 0.0
    """aam, am: share of the target probability spread over all classes."""
    easy_margin: bool = False
    """aam: the margin applies only where the cosine is positive."""
    inter_top_k: int = 0
    """aam, am: so many nearest wrong speakers are pushed away harder; 0: none."""
    inter_top_k_penalty: NonNegative = 0.06
    """... by this margin, in the unit of ``margin``."""
    sphereface2_margin: Literal["c", "a"] = "c"
    """sphereface2: additive margin on the cosine (C) or on the angle (A)."""
    sphereface2_positive_share: Share = 0.7
    """sphereface2: lambda, the weight of the target's term against those of all others."""
    sphereface2_curvature: Count = 3
    """sphereface2: t of the similarity adjustment 2 ((cos + 1) / 2)^t - 1."""
    mining: Literal["hard", "semi_hard", "all"] = "semi_hard"
    """triplet: hardest positive and negative of each anchor, semi-hard negatives, or every triplet with a loss."""
    temperature: Positive = 0.07
    """supcon: divides the cosines."""

    @model_validator(mode="after")
    def _options_fit_the_type(self) -> LossConfig:
        if self.inter_top_k < 0:
            raise ValueError(f"inter_top_k must not be negative, not {self.inter_top_k}")
        if not self.sphereface2_positive_share:
            raise ValueError("sphereface2_positive_share must be above 0: nothing would draw a target closer")
        if not self.inter_top_k:
            require_default(self, ("inter_top_k_penalty",), "does nothing without inter_top_k")
        for key, types in _OPTIONS.items():
            if self.type not in types:
                require_default(self, (key,), f"does nothing with loss.type {self.type}")
        return self

    @property
    def has_classes(self) -> bool:
        """Whether there are class vectors to train."""
        return self.type not in PAIR_LOSSES


_OPTIONS: dict[str, tuple[LossType, ...]] = {  # what reads each option; margin is for all but supcon
    "margin": ("aam", "am", "sphereface2", "triplet"),
    "scale": ("aam", "am", "sphereface2"),
    "subcenters": ("aam", "am", "sphereface2"),
    "label_smoothing": ("aam", "am"),
    "easy_margin": ("aam",),
    "inter_top_k": ("aam", "am"),
    "sphereface2_margin": ("sphereface2",),
    "sphereface2_positive_share": ("sphereface2",),
    "sphereface2_curvature": ("sphereface2",),
    "mining": ("triplet",),
    "temperature": ("supcon",),
}
