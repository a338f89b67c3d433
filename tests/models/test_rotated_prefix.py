"""Strangers' error rates at a rotated prefix and at a truncated one, through audio, head and trial list.

The demo's encoder gives 64 numbers only, so a random projection of its pooled statistics to 192 stands in for a
released head. One projection may favour either start by luck; the mean over several does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mrl.audio import read
from mrl.data.corpus import scan
from mrl.data.demo import DemoPlan, write_demo_corpus
from mrl.data.trials import TrialList, generate_trials, read_trials
from mrl.evaluation.metrics import equal_error_rate
from mrl.evaluation.scoring import prefix_scores
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import build_released, load_released
from mrl.models.released import ReleasedModel
from mrl.models.warm_start import between_class_rotation, initialise_head, released_projection

DEMO_ENCODER = Path(__file__).parent.parent.parent / "configs" / "demo_encoder.pt"
EMBEDDING = 192
PREFIX = 64
PROJECTIONS = range(5)


@pytest.fixture(scope="module")
def encoder() -> ReleasedModel:
    return load_released(DEMO_ENCODER)


@torch.no_grad()
def pooled_statistics(encoder: ReleasedModel, paths: Sequence[Path]) -> Tensor:
    """Pooled statistics [N, P] of whole files."""
    return torch.cat([encoder.pooled(torch.from_numpy(read(path))[None]) for path in paths])


@torch.no_grad()
def error_rates(
    encoder: ReleasedModel, training: Tensor, speakers: Tensor, test: Tensor, trials: TrialList
) -> dict[str, np.ndarray]:
    """EER at ``PREFIX`` and at full size of each start, averaged over the projections.

    ``training`` [N, P] and ``speakers`` [N] give the rotation; ``test`` [U, P] are the trials' utterances.
    """
    rates: dict[str, list[list[float]]] = {"rotated": [], "truncated": []}
    for seed in PROJECTIONS:
        released = build_released({**encoder.model_config, "embed_dim": EMBEDDING}, seed=seed).eval()
        released.bn.load_state_dict(encoder.bn.state_dict())
        rotation = between_class_rotation(released.project(training), speakers)
        for how in ("rotated", "truncated"):
            head = MatryoshkaHead(released.pooled_dim, EMBEDDING).eval()
            initialise_head(head, released_projection(released), how, rotation)
            scores = prefix_scores(head(test).numpy(), trials.enrolment, trials.test, [PREFIX, EMBEDDING])
            rates[how].append([equal_error_rate(row, trials.labels).rate for row in scores])
    return {how: np.mean(of_start, axis=0) for how, of_start in rates.items()}


def check(rates: dict[str, np.ndarray]) -> None:
    assert rates["rotated"][1] == pytest.approx(rates["truncated"][1], abs=1e-9)  # same cosines at full size
    assert rates["rotated"][0] < rates["truncated"][0] - 0.01


def test_rotated_prefix_beats_truncation_on_real_speech_of_strangers(encoder, speech):
    training = [
        (number, path)
        for number, folder in enumerate(sorted((speech / "train").glob("so*")))
        for path in sorted(folder.glob("*/*.m4a"))[:3]
    ]
    speakers = torch.tensor([number for number, _ in training])
    trials = read_trials(speech / "trials" / "val_trials.txt", speech / "val")
    rates = error_rates(
        encoder,
        pooled_statistics(encoder, [path for _, path in training]),
        speakers,
        pooled_statistics(encoder, [trials.root / utterance for utterance in trials.utterances]),
        trials,
    )
    assert len(speakers) == 315
    check(rates)


def test_rotated_prefix_beats_truncation_on_invented_strangers(encoder, tmp_path):
    # Voices of another population than those that the encoder learnt from or the demo trains on.
    lengths = {"seed": 11, "shortest_seconds": 2.0, "longest_seconds": 2.5}
    write_demo_corpus(tmp_path / "train", DemoPlan(150, 2, 1, **lengths))
    write_demo_corpus(tmp_path / "test", DemoPlan(30, 2, 2, first_speaker=5000, **lengths))
    corpus, strangers = (scan(tmp_path / part, manifest_dir=None) for part in ("train", "test"))
    trials = generate_trials(strangers, seed=1, name="v", targets_per_speaker=4, nontargets_per_target=10)
    rates = error_rates(
        encoder,
        pooled_statistics(encoder, [corpus.path(utterance) for utterance in range(len(corpus))]),
        torch.from_numpy(corpus.speaker_ids.astype(np.int64)),
        pooled_statistics(encoder, [trials.root / utterance for utterance in trials.utterances]),
        trials,
    )
    check(rates)
