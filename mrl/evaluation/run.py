"""What evaluate.py does: score a checkpoint on its configured trial lists or on another one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mrl.config_file import config_from_dict
from mrl.console import Console
from mrl.data.assemble import configured_lists
from mrl.data.trials import TrialList, check_audio_exists, read_trials
from mrl.device import choose_device
from mrl.errors import ConfigError
from mrl.evaluation.embedding import Utterances
from mrl.evaluation.report import RESULT_COLUMNS, result_rows
from mrl.evaluation.verification import VerificationResult, verify_lists
from mrl.models.checkpoint_format import read_checkpoint
from mrl.models.encoder import encoder_from_checkpoint


def evaluate(
    checkpoint: str,
    *,
    trials_path: str | None = None,
    root: str | None = None,
    dims: Sequence[int] | None = None,
    device_name: str = "auto",
    workers: int = 4,
) -> list[VerificationResult]:
    """Score ``checkpoint`` and print EER, threshold and minDCF per list and prefix. Raises MRLError.

    Without ``trials_path`` (which goes with ``root``) the lists of the checkpoint's configuration are scored;
    without ``dims`` the prefixes that it was trained for.
    """
    content = read_checkpoint(checkpoint)
    config = config_from_dict(content["config"], checkpoint)
    encoder = encoder_from_checkpoint(content, checkpoint).to(choose_device(device_name))
    prefixes = _prefixes(dims, encoder.dims)
    lists: tuple[TrialList, ...]
    if trials_path is not None and root is not None:
        lists = (read_trials(Path(trials_path), Path(root)),)
        check_audio_exists(lists[0])
    else:
        lists = configured_lists(config, content["lists"])
    console = Console()
    utterances = len(Utterances.of(lists).paths)
    with console.progress("embedding", utterances) as bar:
        results = verify_lists(
            encoder,
            lists,
            prefixes,
            max_seconds=config.validation.max_utterance_seconds,
            workers=workers,
            advance=bar.advance,
        )
    console.table(f"{checkpoint}", RESULT_COLUMNS, result_rows(results))
    for result in results:
        console.say(
            f"{result.name}: {result.num_trials} trials ({result.num_targets} target), "
            f"{result.num_utterances} utterances, scored in {result.seconds - result.embedding_seconds:.1f} s"
        )
    seconds = sum(result.embedding_seconds for result in results)
    console.say(f"{utterances} distinct utterances, each embedded once in {seconds:.1f} s")
    return results


def _prefixes(asked: Sequence[int] | None, trained: tuple[int, ...]) -> list[int]:
    if asked is None:
        return list(trained)
    if wrong := [dim for dim in asked if not 1 <= dim <= trained[-1]]:
        raise ConfigError("--dims", [f"{wrong[0]} is not a prefix: the embedding has {trained[-1]} numbers"])
    return sorted(set(asked))
