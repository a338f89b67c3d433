"""Entering a stage: what learns in it and what is frozen."""

from __future__ import annotations

from torch import nn

from mrl.config import StageConfig
from mrl.models.encoder import SpeakerEncoder
from mrl.models.layout import StageSum

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
PARTS = ("backbone", "head", "classifier")


def part_modules(encoder: SpeakerEncoder, classifier: nn.Module) -> dict[str, nn.Module]:
    """The parts that a stage may train, by name."""
    return dict(zip(PARTS, (encoder.backbone, encoder.head, classifier), strict=True))


def enter_stage(encoder: SpeakerEncoder, classifier: nn.Module, stage: StageConfig) -> None:
    """Freeze and thaw: frozen parts get no gradient and stay in eval mode, so their BatchNorms do not move.

    What learns are the parts with a rate: those that the stage trains, and the classifier where the loss has one.
    With ``norm_statistics: frozen`` the BatchNorms of trained parts are in eval mode too: their gain and bias
    learn, their statistics stay those of the pretrained model, and a sample's embedding does not depend on the
    rest of its batch. See :func:`moving_norms`.
    """
    rates = stage.learning_rate.named()
    moving = set(moving_norms(encoder, stage))
    for part, module in part_modules(encoder, classifier).items():
        learns = part in rates
        module.train(learns)
        module.requires_grad_(learns)
        for inner in module.modules():
            if isinstance(inner, BATCH_NORMS):
                inner.train(inner in moving)
            if isinstance(inner, StageSum) and inner.is_inert:
                inner.requires_grad_(False)  # several processes would wait for its gradient


def moving_norms(encoder: SpeakerEncoder, stage: StageConfig) -> list[nn.Module]:
    """The BatchNorms whose statistics the stage uses from the batch and updates.

    They are those of the parts that it trains, with ``norm_statistics: batch``. Those of a backbone with
    low-rank adapters are frozen like the rest of its own weights.
    """
    if stage.norm_statistics == "frozen":
        return []
    parts = {"backbone": encoder.backbone, "head": encoder.head}
    trained = [parts[part] for part in stage.train if part == "head" or stage.lora is None]
    return [inner for module in trained for inner in module.modules() if isinstance(inner, BATCH_NORMS)]
