"""A sanity check of the training loop: a few utterances must be learnt by heart."""

from __future__ import annotations

import copy

import numpy as np
import torch

from mrl.audio import SAMPLE_RATE
from mrl.config import Config, LearningRates, StageConfig
from mrl.data.corpus import Corpus
from mrl.data.loading import Batch, CropDataset, collate
from mrl.data.sampling import balanced_sample
from mrl.errors import DataError, TrainingError
from mrl.loss import Targets, build_loss
from mrl.models.encoder import SpeakerEncoder
from mrl.training.criterion import Criterion
from mrl.training.live_weights import LiveWeights
from mrl.training.schedules import plan_stage
from mrl.training.step_module import StepBatch
from mrl.training.tracking import Tracker
from mrl.training.updater import Updater

STEPS = 300
NEAR_ZERO = 0.1
_RATE = 1e-3  # the loop is on trial, not the configured rates
_CLASSIFIER_RATE = 1e-2
_HARDER = (
    *("warmup_epochs", "warmup_steps", "margin_warmup_epochs", "prefix_start", "teacher_weight", "optimizer"),
    *("momentum", "depth_decay", "ema_decay", "average", "augmentation", "cache_views"),
)


def overfit_stages(
    config: Config, encoder: SpeakerEncoder, corpus: Corpus, num_utterances: int, tracker: Tracker
) -> None:
    """For each stage, learn the same crops of ``num_utterances`` utterances, from fresh class vectors.

    What a stage freezes stays frozen; augmentation, dropout, label smoothing, warm-up and schedule are off, which
    keep a loss from zero. Losses over pairs get two utterances of each speaker. Raises TrainingError
    where the mean loss over prefixes does not fall below :data:`NEAR_ZERO` in :data:`STEPS` steps.
    """
    few = _few(config, corpus, num_utterances)
    config = config.model_copy(update={"loss": config.loss.model_copy(update={"label_smoothing": 0.0})})
    start = copy.deepcopy(encoder.state_dict())
    failed = []
    for index, stage in enumerate(config.stages):
        encoder.load_state_dict(start)
        first, last = _learn_by_heart(config, _plain(stage, len(few)), index, encoder, few, tracker)
        passed = last < NEAR_ZERO
        tracker.say(
            f"overfit, stage {stage.name}: loss {first:.3f} -> {last:.4f} on {len(few)} utterances of "
            f"{len(few.speakers)} speakers, {'near zero' if passed else 'NOT near zero'}"
        )
        if not passed:
            failed.append(stage.name)
    if failed:
        raise TrainingError(
            f"--overfit {num_utterances}: stage {', '.join(failed)} did not bring the loss below {NEAR_ZERO} in "
            f"{STEPS} steps; the loop, the labels or what the stage trains is at fault"
        )


def _few(config: Config, corpus: Corpus, num_utterances: int) -> Corpus:
    """The utterances to learn: of as many speakers as can be, or two of each where pairs are needed."""
    chosen = np.zeros(len(corpus), dtype=bool)
    if config.loss.has_classes:
        chosen[balanced_sample(corpus, num_utterances, config.seed)] = True
        return corpus.select(chosen)
    wanted = num_utterances // 2
    pairs = [own[:2] for own in map(corpus.utterances_of, range(len(corpus.speakers))) if len(own) > 1][
        :wanted
    ]
    if len(pairs) < 2:
        raise DataError(
            f"--overfit {num_utterances}: loss.type {config.loss.type} needs two utterances of two speakers or more"
        )
    chosen[np.concatenate(pairs)] = True
    return corpus.select(chosen)


def _plain(stage: StageConfig, batch_size: int) -> StageConfig:
    """The stage without everything that makes learning by heart harder."""
    rates = {
        part: _CLASSIFIER_RATE if part == "classifier" else _RATE for part in stage.learning_rate.named()
    }
    changed = {key: StageConfig.model_fields[key].get_default(call_default_factory=True) for key in _HARDER}
    sizes = {"epochs": STEPS, "batch_size": batch_size, "accumulate_steps": 1}
    return stage.model_copy(
        update={**changed, **sizes, "schedule": "constant", "learning_rate": LearningRates(**rates)}
    )


def _learn_by_heart(
    config: Config,
    stage: StageConfig,
    index: int,
    encoder: SpeakerEncoder,
    corpus: Corpus,
    tracker: Tracker,
) -> tuple[float, float]:
    """Mean loss over prefixes before and after."""
    device = next(encoder.parameters()).device
    torch.manual_seed(config.seed)
    criterion = Criterion(build_loss(config, len(corpus.speakers))).to(device)
    crops = _one_batch(corpus, stage.crop_seconds, config.seed)
    targets = Targets(crops.speakers.to(device))
    batch = StepBatch(crops.waveforms.to(device), targets, None, crops.utterances, [])
    weights = LiveWeights(config, stage, encoder, criterion)
    encoder.head.dropout.eval()
    updater = Updater(encoder, criterion, plan_stage(config, stage, index, 1), config.runtime, config.seed)
    losses: list[float] = []
    with tracker.progress(f"overfit {stage.name}", STEPS) as bar:
        for step in range(STEPS):
            for values in updater.update(batch, stage_step=step, run_step=step):
                losses.append(float(np.mean(values.loss_per_prefix)))
                bar.advance(1, loss=f"{losses[-1]:.4f}")
            if losses and losses[-1] < NEAR_ZERO / 2:
                break
    weights.leave()
    return losses[0], losses[-1]


def _one_batch(corpus: Corpus, crop_seconds: float, seed: int) -> Batch:
    dataset = CropDataset(corpus, round(crop_seconds * SAMPLE_RATE), seed)
    return collate([dataset[(0, item)] for item in range(len(corpus))])
