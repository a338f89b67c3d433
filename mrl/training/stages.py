"""Entering a stage: what learns in it and what is frozen."""

from __future__ import annotations

from torch import nn

from mrl.config import StageConfig
from mrl.models.encoder import SpeakerEncoder

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
PARTS = ("backbone", "head", "classifier")


def part_modules(encoder: SpeakerEncoder, classifier: nn.Module) -> dict[str, nn.Module]:
    """The parts that a stage may train, by name."""
    return dict(zip(PARTS, (encoder.backbone, encoder.head, classifier), strict=True))


def enter_stage(encoder: SpeakerEncoder, classifier: nn.Module, stage: StageConfig) -> None:
    """Freeze and thaw: frozen parts get no gradient and stay in eval mode, so their BatchNorms do not move.

    With ``norm_statistics: frozen`` the BatchNorms of trained parts are in eval mode too: their gain and bias
    learn, their statistics stay those of the pretrained model, and a sample's embedding does not depend on the
    rest of its batch.
    """
    for part, module in part_modules(encoder, classifier).items():
        learns = part == "classifier" or part in stage.train
        module.train(learns)
        module.requires_grad_(learns)
        if stage.norm_statistics == "frozen":
            for inner in module.modules():
                if isinstance(inner, BATCH_NORMS):
                    inner.eval()
