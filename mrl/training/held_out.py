"""A validation loss that means something: on held-out utterances of the training speakers.

An EER on new speakers says whether the encoder generalises; the loss on held-out utterances, beside that on as
many training utterances measured alike, says whether the classifier learns its training data by heart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mrl.audio import SAMPLE_RATE
from mrl.data.assemble import RunData
from mrl.data.corpus import Corpus
from mrl.data.loading import CropDataset, make_loader
from mrl.loss import SlicedClassifier
from mrl.models.encoder import SpeakerEncoder, evaluating
from mrl.training.warm_start import balanced_sample

_BATCH = 32


def measure_held_out(
    encoder: SpeakerEncoder,
    classifier: SlicedClassifier,
    data: RunData,
    *,
    crop_seconds: float,
    seed: int,
    workers: int,
) -> dict[str, float]:
    """Loss and accuracy per prefix of held-out utterances and of as many training utterances, and their gap.

    One fixed crop of each utterance, no augmentation, no margin: ``held_out/loss_<dim>``,
    ``held_out/accuracy_<dim>`` (a share), ``train_sample/...`` likewise, and ``held_out/gap``, the mean over the
    prefixes of held-out minus training loss.
    """
    assert data.held_out is not None
    sample = balanced_sample(data.train, len(data.held_out), seed).tolist()
    metrics: dict[str, float] = {}
    losses = {}
    everything: list[int] = list(range(len(data.held_out)))
    parts = {"held_out": (data.held_out, everything), "train_sample": (data.train, sample)}
    for name, (corpus, chosen) in parts.items():
        loss, accuracy = _score(encoder, classifier, corpus, chosen, crop_seconds, seed, workers)
        losses[name] = loss
        for place, dim in enumerate(classifier.dims):
            metrics[f"{name}/loss_{dim}"] = float(loss[place])
            metrics[f"{name}/accuracy_{dim}"] = float(accuracy[place])
    metrics["held_out/gap"] = float((losses["held_out"] - losses["train_sample"]).mean())
    return metrics


def overfitting_warning(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """A sentence where, from one validation to the next, the gap grows while the mean EER rises."""
    gap, eer = "held_out/gap", "mean_eer"
    if gap not in before or gap not in now or now[gap] <= before[gap] or now[eer] <= before[eer]:
        return None
    return (
        f"the gap between held-out and training loss grew ({before[gap]:.3f} -> {now[gap]:.3f}) while the mean EER "
        f"rose ({100 * before[eer]:.2f} -> {100 * now[eer]:.2f} %): the run is learning its training speakers by "
        "heart; augment more, train less, or lower the rates"
    )


@torch.no_grad()
def _score(
    encoder: SpeakerEncoder,
    classifier: SlicedClassifier,
    corpus: Corpus,
    chosen: Sequence[int],
    crop_seconds: float,
    seed: int,
    workers: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss and accuracy of ``chosen`` utterances at each prefix, on the CPU."""
    device = encoder.head.linear.weight.device
    dataset = CropDataset(corpus, round(crop_seconds * SAMPLE_RATE), seed)
    batches = [[(0, item) for item in chosen[i : i + _BATCH]] for i in range(0, len(chosen), _BATCH)]
    losses, hits = [], []
    with evaluating(encoder):
        for batch in make_loader(dataset, batches, workers, pin_memory=False):
            embeddings = encoder(batch.waveforms.to(device))
            loss, hit = classifier.score(embeddings, batch.speakers.to(device))
            losses.append(loss.cpu())
            hits.append(hit.cpu())
    return torch.cat(losses).mean(0), torch.cat(hits).float().mean(0)
