"""A validation loss that means something: on held-out utterances of the training speakers.

An EER on new speakers says whether the encoder generalises; the loss on held-out utterances, beside that on as
many training utterances measured alike, says whether the classifier learns its training data by heart.
N utterances, P pooled statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mrl.audio import SAMPLE_RATE
from mrl.config import DataConfig
from mrl.data.assemble import RunData
from mrl.data.corpus import Corpus
from mrl.data.loader import make_loader
from mrl.data.loading import CropDataset
from mrl.data.sampling import balanced_sample
from mrl.evaluation.finite import EmbeddingError, require_usable
from mrl.loss import SlicedClassifier
from mrl.models.encoder import SpeakerEncoder, evaluating
from mrl.models.fingerprint import fingerprint_of
from mrl.models.released import Trunk

_BATCH = 32
_CROP_SECONDS = 3.0


class HeldOut:
    """Loss and accuracy of held-out utterances and of as many training utterances, and their gap.

    One fixed crop of 3 s of each utterance, no augmentation, no margin. What the backbone makes of the crops is
    kept for as long as it stays the same.
    """

    def __init__(self, data: RunData, seed: int, loading: DataConfig, say: Callable[[str], None]) -> None:
        assert data.held_out is not None
        sample = balanced_sample(data.train, len(data.held_out), seed).tolist()
        everything: list[int] = list(range(len(data.held_out)))
        self._parts = {"held_out": (data.held_out, everything), "train_sample": (data.train, sample)}
        self._seed, self._loading, self._say = seed, loading, say
        self._fingerprint = ""
        self._pooled: dict[str, tuple[Tensor, Tensor]] = {}

    def measure(self, encoder: SpeakerEncoder, classifier: SlicedClassifier) -> dict[str, float]:
        """``held_out/loss_<dim>``, ``held_out/accuracy_<dim>`` (a share), ``train_sample/...`` likewise.

        ``held_out/gap`` is the mean over the prefixes of held-out minus training loss. Raises EmbeddingError for
        pooled statistics or a loss that is not finite.
        """
        if (fingerprint := fingerprint_of(encoder.backbone)) != self._fingerprint:
            self._pooled = {name: self._pool(encoder.backbone, *part) for name, part in self._parts.items()}
            self._fingerprint = fingerprint
        metrics: dict[str, float] = {}
        losses = {}
        for name, (pooled, speakers) in self._pooled.items():
            loss, accuracy = _score(encoder, classifier, pooled, speakers)
            losses[name] = loss
            for place, dim in enumerate(classifier.dims):
                metrics[f"{name}/loss_{dim}"] = float(loss[place])
                metrics[f"{name}/accuracy_{dim}"] = float(accuracy[place])
        metrics["held_out/gap"] = float((losses["held_out"] - losses["train_sample"]).mean())
        if not math.isfinite(metrics["held_out/gap"]):
            found = ", ".join(f"{name}: {float(loss.mean())}" for name, loss in losses.items())
            raise EmbeddingError(f"the loss on held-out and training utterances is not finite ({found})")
        return metrics

    @torch.no_grad()
    def _pool(self, trunk: Trunk, corpus: Corpus, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Pooled statistics [N, P] of the ``chosen`` N utterances, on the CPU, and their speakers [N]."""
        device = next(trunk.parameters()).device
        dataset = CropDataset(corpus, round(_CROP_SECONDS * SAMPLE_RATE), self._seed)
        batches = [[(0, item) for item in chosen[i : i + _BATCH]] for i in range(0, len(chosen), _BATCH)]
        pooled, speakers = [], []
        with evaluating(trunk):
            loader = make_loader(
                dataset,
                batches,
                self._loading.workers,
                pin_memory=False,
                timeout_seconds=self._loading.worker_timeout_seconds,
                say=self._say,
            )
            for batch in loader:
                for message in batch.replaced:
                    self._say(f"held-out loss, replaced: {message}")
                rows = trunk(batch.waveforms.to(device)).float().cpu()
                names = [corpus.relative_path(utterance) for utterance in batch.utterances.tolist()]
                require_usable(rows, names, trunk)
                pooled.append(rows)
                speakers.append(batch.speakers)
        return torch.cat(pooled), torch.cat(speakers)


def describe_held_out(record: Mapping[str, Any], dims: Sequence[int]) -> str | None:
    """A line on the held-out utterances at the widest prefix; None where none are held out."""
    if "held_out/gap" not in record:
        return None
    widest = dims[-1]
    held, trained = (
        f"loss {record[f'{name}/loss_{widest}']:.3f}, accuracy {100 * record[f'{name}/accuracy_{widest}']:.1f} %"
        for name in ("held_out", "train_sample")
    )
    return f"held-out utterances at {widest}: {held}; training utterances: {trained}"


def overfitting_warning(history: Sequence[Mapping[str, Any]]) -> str | None:
    """A sentence where, from one trained epoch that was scored to the next, the gap grows while the mean EER rises.

    Epoch 0 does not count, whose class vectors are means of training utterances, nor do means of epochs.
    """
    gap, eer = "held_out/gap", "mean_eer"
    trained = [record for record in history[1:] if "average_of" not in record]
    if len(trained) < 2 or trained[-1] is not history[-1] or gap not in trained[-1]:
        return None
    before, now = trained[-2], trained[-1]
    if now[gap] <= before.get(gap, now[gap]) or now[eer] <= before[eer]:
        return None
    return (
        f"the gap between held-out and training loss grew ({before[gap]:.3f} -> {now[gap]:.3f}) while the mean EER "
        f"rose ({100 * before[eer]:.2f} -> {100 * now[eer]:.2f} %): the run is learning its training speakers by "
        "heart; augment more, train less, or lower the rates"
    )


@torch.no_grad()
def _score(
    encoder: SpeakerEncoder, classifier: SlicedClassifier, pooled: Tensor, speakers: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean loss and accuracy at each prefix, on the CPU."""
    device = encoder.head.linear.weight.device
    losses, hits = [], []
    with evaluating(encoder):
        for rows, labels in zip(pooled.split(_BATCH), speakers.split(_BATCH), strict=True):
            loss, hit = classifier.score(encoder.head(rows.to(device)), labels.to(device))
            losses.append(loss.cpu())
            hits.append(hit.cpu())
    return torch.cat(losses).mean(0), torch.cat(hits).float().mean(0)
