"""What is measured after an epoch: EER on the trial lists, and the loss on held-out utterances."""

from __future__ import annotations

from mrl.config import Config
from mrl.data.assemble import RunData
from mrl.evaluation.verification import VerificationResult, verify
from mrl.loss import SlicedClassifier
from mrl.models.encoder import SpeakerEncoder
from mrl.training.criterion import Criterion
from mrl.training.held_out import measure_held_out
from mrl.training.tracking import Tracker


class Validator:
    """Scores encoders on the validation data of a run."""

    def __init__(self, config: Config, data: RunData, tracker: Tracker) -> None:
        self._config = config
        self._data = data
        self._tracker = tracker

    def score(self, encoder: SpeakerEncoder, title: str) -> list[VerificationResult]:
        """Each trial list at every prefix of ``encoder``."""
        validation, lists = self._config.validation, self._data.validation
        total = sum(len(trials.utterances) for trials in lists)
        with self._tracker.progress(f"scoring {title}", total) as bar:
            return [
                verify(
                    encoder,
                    trials,
                    encoder.dims,
                    max_seconds=validation.max_utterance_seconds,
                    workers=max(1, self._config.data.workers),
                    advance=bar.advance,
                )
                for trials in lists
            ]

    def held_out_loss(self, encoder: SpeakerEncoder, criterion: Criterion) -> dict[str, float]:
        """See `measure_held_out`; nothing where no utterances are held out."""
        if self._data.held_out is None:
            return {}
        classifier = criterion.loss
        assert isinstance(classifier, SlicedClassifier)  # held by the configuration
        return measure_held_out(
            encoder,
            classifier,
            self._data,
            seed=self._config.seed,
            workers=self._config.data.workers,
            say=self._tracker.say,
        )
