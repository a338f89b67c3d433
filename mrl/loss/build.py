"""From the configuration to a loss."""

from __future__ import annotations

from mrl.config import Config
from mrl.loss.classifier import SlicedClassifier
from mrl.loss.softmax import MarginSoftmax
from mrl.loss.terms import SlicedLoss


def build_loss(config: Config, num_speakers: int) -> SlicedLoss:
    """The loss that ``config`` describes, over ``num_speakers`` training speakers, with fresh class vectors."""
    loss = config.loss
    assert loss.type in ("aam", "am")
    softmax = MarginSoftmax(loss.type, label_smoothing=loss.label_smoothing)
    scales = [loss.scale if prefix.scale is None else prefix.scale for prefix in config.prefixes]
    return SlicedClassifier(
        num_speakers,
        config.dims,
        [softmax] * len(config.dims),
        scales,
        num_blocks=1 + len(class_speeds(config)),
        subcenters=loss.subcenters,
    )


def class_speeds(config: Config) -> tuple[float, ...]:
    """The speeds, besides the true one, that make classes of their own in any stage; block k + 1 is the k-th."""
    return tuple(sorted({speed for stage in config.stages for speed in stage.augmentation.speed_classes}))
