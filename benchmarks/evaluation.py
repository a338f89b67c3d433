"""Verification at the scale of VoxCeleb1: forwards, scores and EERs at every prefix, and their memory."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from benchmarks.b2 import B2, DIMS
from benchmarks.plain_evaluation import prefix_by_prefix, two_forwards_per_trial
from benchmarks.table import Claim, Table
from benchmarks.timing import Timing, alternate, peak_bytes, ratio
from mrl.audio import SAMPLE_RATE, read
from mrl.data.trials import Trial, TrialList, read_trials
from mrl.evaluation.embedding import embed_utterances, exact_inference
from mrl.evaluation.scoring import eer_curve, prefix_scores
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import build_released, load_released
from mrl.models.released import ReleasedModel

COMMAND = "python -m benchmarks.evaluation"
DEMO_ENCODER = Path(__file__).parent.parent / "configs" / "demo_encoder.pt"
WIDTH = 256
# VoxCeleb1-O, cleaned: its list; VoxCeleb1-E: about 580,000 trials over 145,160 utterances.
TRIALS_O, UTTERANCES_O, SPEAKERS_O = 37_611, 4_708, 40
TRIALS_E, UTTERANCES_E = 580_000, 145_160
MOST_MB = 100  # beside the embeddings


def run(*, quick: bool = False) -> list[Table]:
    """Three tables; ``quick``: tiny sizes."""
    return [network_table(quick), scoring_table(quick), large_list_table(quick)]


def network_table(quick: bool) -> Table:
    """Each utterance once against two forwards per trial and prefix, both run whole on a small list."""
    utterances, trials = (8, 16) if quick else (48, 384)  # eight trials to an utterance, as in VoxCeleb1-O
    plain, ours, gap = both_paths(utterances, trials)
    alone, together = seconds_per_utterance(quick)
    small, large = 2 * trials * len(DIMS), 2 * TRIALS_O * len(DIMS)
    rows = [
        [
            f"demo network, {trials} trials of {utterances} utterances (0.5 to 0.8 s), run whole",
            f"{small:,} forwards, {plain:.1f} s",
            f"{utterances} utterances, {ours:.2f} s with reading and scoring",
            f"{plain / ours:.0f}x; scores within {gap:.0e}",
        ],
        [
            f"b2's network, {TRIALS_O:,} trials of {UTTERANCES_O:,} utterances (8 s), by arithmetic",
            f"{large:,} forwards, {large * alone.median / 3600:.1f} h",
            f"{UTTERANCES_O:,} utterances, {UTTERANCES_O * alone.median / 3600:.2f} h",
            f"{large / UTTERANCES_O:.0f}x",
        ],
        [
            "b2's network, an utterance of 8 s: alone, and its share of a batch of 4",
            f"{alone.milliseconds} ms",
            f"{together.milliseconds} ms",
            f"{ratio(alone, together):.2f}x",
        ],
    ]
    return Table(
        "Evaluation: network, four prefixes",
        COMMAND,
        ["", "two forwards per trial and prefix", "each utterance once", "ratio"],
        rows,
        [] if quick else [Claim("seconds of two forwards per trial and prefix, over ours", plain / ours, 30)],
        "The plain path is given waveforms that are in memory; the second row says what each forward alone would take.",
    )


def both_paths(utterances: int, num_trials: int) -> tuple[float, float, float]:
    """Seconds of the plain path and of ours on one list, and how far apart their scores are.

    The plain path does one prefix after the other, and ours the whole work after each; its median counts.
    """
    released = load_released(DEMO_ENCODER)
    torch.manual_seed(0)
    encoder = SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, WIDTH), DIMS).eval().to(_device())
    with tempfile.TemporaryDirectory() as folder:
        trials = written_list(Path(folder), utterances, num_trials)
        paths = [trials.root / name for name in trials.utterances]
        waveforms = [torch.from_numpy(read(path)).to(_device()) for path in paths]
        embed_utterances(encoder, paths)  # the first call on a device loads libraries
        plain, ours, gap = 0.0, [], 0.0
        for number, dim in enumerate(DIMS):
            started = time.perf_counter()
            with exact_inference(encoder):
                plain_scores = two_forwards_per_trial(encoder, waveforms, trials, [dim])[0]
            plain += time.perf_counter() - started
            started = time.perf_counter()
            scores = prefix_scores(embed_utterances(encoder, paths), trials.enrolment, trials.test, DIMS)
            ours.append(time.perf_counter() - started)
            gap = max(gap, float(np.abs(scores[number] - plain_scores).max()))
    return plain, float(np.median(ours)), gap


def written_list(root: Path, utterances: int, num_trials: int) -> TrialList:
    """Half target trials among noise files of 0.5 to 0.8 s written below ``root``, four to a speaker."""
    rng = np.random.default_rng(0)
    names = [f"{number // 4}/{number}.wav" for number in range(utterances)]
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        samples = rng.uniform(-0.3, 0.3, rng.integers(8000, 12_800))
        soundfile.write(root / name, samples, SAMPLE_RATE)
    trials = []
    for number in range(num_trials):
        place = number % utterances
        offset = 1 + rng.integers(3) if number % 2 else 4 + rng.integers(utterances - 7)
        other = place // 4 * 4 + (place + offset) % 4 if number % 2 else (place + offset) % utterances
        trials.append(Trial(place // 4 == other // 4, names[place], names[other]))
    return TrialList.from_trials("written", root, trials)


def seconds_per_utterance(quick: bool) -> tuple[Timing, Timing]:
    """Seconds for an utterance of 8 s: by itself, and its share of a batch of four."""
    network: ReleasedModel = load_released(DEMO_ENCODER) if quick else build_released(B2, seed=0)
    network.eval().to(_device())
    waveforms = 0.1 * torch.randn(4, (1 if quick else 8) * SAMPLE_RATE, device=_device())

    def forward(batch: torch.Tensor) -> Callable[[], object]:
        def work() -> object:
            with exact_inference(network):
                return network.pooled(batch)

        return work

    timings = alternate(
        {"alone": forward(waveforms[:1]), "together": forward(waveforms)}, rounds=1 if quick else 3
    )
    return timings["alone"], Timing(tuple(second / 4 for second in timings["together"].seconds))


def scoring_table(quick: bool) -> Table:
    """Scores and EERs of one list at every prefix."""
    trials, source = _voxceleb_list(quick)
    embeddings = speaker_embeddings(trials)
    dims = range(1, WIDTH + 1)
    timings = alternate(
        {
            "plain": lambda: prefix_by_prefix(embeddings, trials, dims),
            "ours": lambda: eer_curve(embeddings, trials.enrolment, trials.test, trials.labels),
        },
        rounds=1 if quick else 2,
        warm_ups=0,
    )
    rates = eer_curve(embeddings, trials.enrolment, trials.test, trials.labels).rates
    gap = float(np.abs(rates[::32] - prefix_by_prefix(embeddings, trials, dims[::32])).max())
    ours = timings["ours"]
    return Table(
        "Evaluation: scores and EER at all 256 prefixes",
        COMMAND,
        ["", "prefix by prefix, scikit-learn's ROC: ms", "one pass: ms", "ratio"],
        [
            [
                f"{len(trials):,} trials of {len(trials.utterances):,} utterances ({source})",
                timings["plain"].milliseconds,
                ours.milliseconds,
                f"{ratio(timings['plain'], ours):.0f}x; rates within {gap:.0e}",
            ]
        ],
        [] if quick else [Claim("seconds on the CPU", ours.median, 1.0, at_most=True)],
    )


def large_list_table(quick: bool) -> Table:
    """A list of VoxCeleb1-E's size: seconds, and memory beside the embeddings."""
    trials, utterances = (20_000, 2_000) if quick else (TRIALS_E, UTTERANCES_E)
    work = large_list(trials, utterances)
    timing = alternate({"ours": work}, rounds=1, warm_ups=0)["ours"]
    peak = peak_bytes(large_list, trials, utterances) / 1e6
    all_scores = trials * WIDTH * 8 / 1e6
    claims = [Claim("MB beside the embeddings", peak, MOST_MB, at_most=True)]
    return Table(
        "Evaluation: a list of the size of VoxCeleb1-E",
        COMMAND,
        ["", "s", "peak MB beside the embeddings", "all scores in float64 would be: MB"],
        [
            [
                f"{trials:,} trials of {utterances:,} utterances, EER at all {WIDTH} prefixes",
                f"{timing.median:.1f}",
                f"{peak:.0f}",
                f"{all_scores:,.0f}",
            ]
        ],
        [] if quick else claims,
    )


def large_list(trials: int, utterances: int) -> Callable[[], object]:
    """The work of `large_list_table`, its inputs made."""
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((utterances, WIDTH), dtype=np.float32)
    enrolment, test = rng.integers(0, utterances, (2, trials), dtype=np.int32)
    labels = rng.random(trials) < 0.5
    eer_curve(embeddings[:10], enrolment[:20] % 10, test[:20] % 10, np.arange(20) % 2 == 0)
    return lambda: eer_curve(embeddings, enrolment, test, labels)


def speaker_embeddings(trials: TrialList) -> NDArray[np.float32]:
    """Random embeddings [U, 256] that lie about one centre per speaker."""
    speakers = [name.split("/")[0] for name in trials.utterances]
    numbers = {speaker: number for number, speaker in enumerate(sorted(set(speakers)))}
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(len(numbers), WIDTH))
    own = 3.0 * rng.normal(size=(len(speakers), WIDTH))
    return (centres[[numbers[speaker] for speaker in speakers]] + own).astype(np.float32)


def _voxceleb_list(quick: bool) -> tuple[TrialList, str]:
    """VoxCeleb1-O where there is a copy, or random trials of that shape."""
    found = Path(os.environ.get("MRL_SPEECH", "")) / "trials" / "voxceleb1_o_cleaned.txt"
    if not quick and found.is_file():
        return read_trials(found, found.parent), "VoxCeleb1-O"
    trials, utterances = (400, 80) if quick else (TRIALS_O, UTTERANCES_O)
    rng = np.random.default_rng(0)
    speakers = rng.integers(0, SPEAKERS_O, utterances)
    names = [f"{speaker}/{number}" for number, speaker in enumerate(speakers)]
    pairs = rng.integers(0, utterances, (trials, 2))
    made = (Trial(bool(speakers[a] == speakers[b]), names[a], names[b]) for a, b in pairs)
    return TrialList.from_trials("random", Path(), made), "random, of the shape of VoxCeleb1-O"


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    for table in run():
        table.show()
