"""From the configuration to a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mrl.config import Config
from mrl.errors import DataError
from mrl.loss.classifier import Objective, SlicedClassifier
from mrl.loss.pairs import PairObjective, SlicedPairLoss, SupervisedContrastive
from mrl.loss.softmax import MarginSoftmax
from mrl.loss.sphereface2 import SphereFace2
from mrl.loss.terms import SlicedLoss
from mrl.loss.triplet import MINING


def build_loss(config: Config, num_speakers: int) -> SlicedLoss:
    """The loss that ``config`` describes, over ``num_speakers`` training speakers, with fresh class vectors.

    Raises DataError where there are too few speakers for ``loss.inter_top_k``.
    """
    loss = config.loss
    if loss.inter_top_k >= num_speakers:
        raise DataError(
            f"loss.inter_top_k is {loss.inter_top_k}, but of {num_speakers} training speakers at most "
            f"{num_speakers - 1} are wrong ones; lower it"
        )
    if not loss.has_classes:
        return SlicedPairLoss(config.dims, _PAIRS[loss.type](config))
    scales = [loss.scale if prefix.scale is None else prefix.scale for prefix in config.prefixes]
    return SlicedClassifier(
        num_speakers,
        config.dims,
        _OBJECTIVES[loss.type](config, num_speakers, scales),
        scales,
        num_blocks=1 + len(class_speeds(config)),
        subcenters=loss.subcenters,
    )


def class_speeds(config: Config) -> tuple[float, ...]:
    """The speeds, besides the true one, that make classes of their own in any stage; block k + 1 is the k-th."""
    return tuple(sorted({speed for stage in config.stages for speed in stage.augmentation.speed_classes}))


def _margin_softmax(config: Config, num_speakers: int, scales: Sequence[float]) -> list[Objective]:
    loss = config.loss
    assert loss.type == "aam" or loss.type == "am"
    softmax = MarginSoftmax(
        loss.type,
        label_smoothing=loss.label_smoothing,
        easy_margin=loss.easy_margin,
        inter_top_k=loss.inter_top_k,
        inter_top_k_penalty=loss.inter_top_k_penalty,
    )
    return [softmax] * len(scales)


def _sphereface2(config: Config, num_speakers: int, scales: Sequence[float]) -> list[Objective]:
    """One for each prefix, with a bias of its own that starts for the classes and margins of the first stage."""
    loss, first = config.loss, config.stages[0]
    num_classes = num_speakers * (1 + len(first.augmentation.speed_classes))
    default = loss.margin if first.margin is None else first.margin
    return [
        SphereFace2(
            num_classes,
            default if prefix.margin is None else prefix.margin,
            scale,
            kind=loss.sphereface2_margin,
            positive_share=loss.sphereface2_positive_share,
            curvature=loss.sphereface2_curvature,
        )
        for prefix, scale in zip(config.prefixes, scales, strict=True)
    ]


_OBJECTIVES: dict[str, Callable[[Config, int, Sequence[float]], list[Objective]]] = {
    "aam": _margin_softmax,
    "am": _margin_softmax,
    "sphereface2": _sphereface2,
}
_PAIRS: dict[str, Callable[[Config], PairObjective]] = {
    "triplet": lambda config: MINING[config.loss.mining],
    "supcon": lambda config: SupervisedContrastive(config.loss.temperature),
}
