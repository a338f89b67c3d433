"""What each option of a recipe does, measured: one option at a time against the plain run, several seeds.

    MRL_SPEECH=/path/to/speech python scripts/ablation.py --output docs/ablation.md

Each run is train.py on configs/ablation.yaml with a few --set; all start from the same weights. What is reported is
the last epoch's EER, not the best one's: nothing is chosen on the trials that it is measured with. Runs that are done
are kept below --runs and not done again, so the command may be broken off and repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from mrl.console import Console
from mrl.standard_streams import open_missing

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "configs" / "ablation.yaml"
STAGES = ("head", "full")
DIMS = (8, 16, 32, 64)
PLAIN = "plain"


def both(key: str, value: str) -> list[str]:
    """The same setting in both stages."""
    return [f"stages.{stage}.{key}={value}" for stage in STAGES]


def augmented(**settings: float | str) -> list[str]:
    """Augmentation in both stages."""
    return [line for key, value in settings.items() for line in both(f"augmentation.{key}", str(value))]


PAIRS = [*both("utterances_per_speaker", "2"), *both("learning_rate.classifier", "null")]
VARIANTS: dict[str, dict[str, list[str]]] = {
    "Losses": {
        "am": ["loss.type=am"],
        "sub-centres: 2": ["loss.subcenters=2"],
        "inter-top-k: 5": ["loss.inter_top_k=5"],
        "label smoothing: 0.1": ["loss.label_smoothing=0.1"],
        "easy margin": ["loss.easy_margin=true"],
        "sphereface2, C": ["loss.type=sphereface2"],
        "sphereface2, A": ["loss.type=sphereface2", "loss.sphereface2_margin=a"],
        "triplet, semi-hard": ["loss.type=triplet", *PAIRS],
        "supcon": ["loss.type=supcon", *PAIRS],
        "margin rises linearly": both("margin_warmup_epochs", "2"),
        "margin rises exponentially": [
            *both("margin_warmup_epochs", "2"),
            *both("margin_rise", "exponential"),
        ],
        "margin 0.1 at 8 and 16": ["prefixes.0.margin=0.1", "prefixes.1.margin=0.1"],
    },
    "Augmentation": {
        "noise (recorded)": [*augmented(noise_probability=0.5), "data.noise=${MRL_SPEECH}/noise"],
        "noise (synthetic)": augmented(noise_probability=0.5),
        "babble": augmented(babble_probability=0.5),
        "rooms (recorded)": [
            *augmented(room_probability=0.5),
            "data.room_responses=${MRL_SPEECH}/room_responses",
        ],
        "rooms (synthetic)": augmented(room_probability=0.5),
        "speed, new speakers": augmented(speed_probability=0.67),
        "speed, same speaker": augmented(speed_probability=0.67, speed_labels="same"),
        "telephone": augmented(telephone_probability=0.5),
        "codec (mp3)": augmented(codec_probability=0.5, codecs="[mp3]"),
        "gain": augmented(gain_probability=0.5),
        "clipping": augmented(clipping_probability=0.5),
        "SpecAugment": augmented(spec_probability=0.6),
        "mixup": augmented(mixup_probability=0.5),
        "noise, babble, rooms, gain": augmented(
            noise_probability=0.3, babble_probability=0.2, room_probability=0.3, gain_probability=0.3
        ),
        "... ramped over 2 epochs": augmented(
            noise_probability=0.3,
            babble_probability=0.2,
            room_probability=0.3,
            gain_probability=0.3,
            ramp_epochs=2,
        ),
    },
    "Stages": {
        "progressive prefixes": ["stages.head.prefix_start={8: 2, 16: 2}"],
        "LoRA": ["stages.full.lora={rank: 4, alpha: 8}", "stages.full.learning_rate.backbone=1.0e-3"],
        "rates by depth: 0.7": ["stages.full.depth_decay=0.7"],
        "larger margin, longer crops in `full`": ["stages.full.margin=0.4", "stages.full.crop_seconds=3.0"],
        "BatchNorm of the batch": both("norm_statistics", "batch"),
    },
    "Optimisation": {
        "SGD with Nesterov": [
            *both("optimizer", "sgd"),
            "stages.head.learning_rate={head: 0.02, classifier: 0.02}",
            "stages.full.learning_rate={backbone: 1.0e-3, head: 5.0e-3, classifier: 5.0e-3}",
        ],
        "constant rate": both("schedule", "constant") + both("final_rate_share", "0.01"),
        "exponential": both("schedule", "exponential"),
        "one cycle": [*both("schedule", "one_cycle"), *both("warmup_epochs", "1")],
        "cosine restarts": [*both("schedule", "cosine_restarts"), *both("restart_epochs", "1")],
        "moving average: 0.98": both("ema_decay", "0.98"),
        "mean of the last 2 epochs": [*both("average", "{epochs: 2, of: last}"), "validation.every_epochs=1"],
    },
    "Holding on, and data": {
        "teacher: 1": both("teacher_weight", "1.0"),
        "teacher: 100": both("teacher_weight", "100.0"),
        "balanced speakers": ["data.balance=speakers"],
        "at most 5 utterances a speaker": ["data.max_utterances_per_speaker=5"],
    },
}


INTRODUCTION = """# Ablation

    MRL_SPEECH=/path/to/speech python scripts/ablation.py --output docs/ablation.md

Each option on and off, one at a time, in the short run of `configs/ablation.yaml`: the demo's encoder (201,181
parameters, pretrained on synthesised voices), 356 speakers of real speech with 1,301 utterances, two stages of two
epochs, 20 updates each, 20 further speakers and 1,680 trials to score, utterances cut to 4 s; on CPUs, in float32. The
corpus is the one of [results.md](results.md): each speaker was recorded in one session, so cues of the recording count
for the speaker, and what takes them away costs EER here. The intervals are over seeds (crops, order, dropout); that
there are only 20 speakers to score comes on top. [recipes.md](recipes.md) says what to make of it."""


class Job(NamedTuple):
    variant: str
    seed: int
    settings: list[str]


def jobs(seeds: Sequence[int], only: Sequence[str]) -> list[Job]:
    """All runs, seed by seed, so that a broken-off ablation has whole rounds."""
    variants = {PLAIN: [], **{name: s for group in VARIANTS.values() for name, s in group.items()}}
    chosen = {name: s for name, s in variants.items() if not only or name == PLAIN or name in only}
    return [Job(name, seed, settings) for seed in seeds for name, settings in chosen.items()]


def run(job: Job, runs: Path) -> str | None:
    """Train, unless that is done; returns what went wrong, if anything did."""
    folder = folder_of(job.variant, job.seed, runs)
    if last_scores(folder) is not None:
        return None
    settings = [
        f"seed={job.seed}",
        f"logging.directory={folder}",
        f"checkpoints.directory={folder}",
        *job.settings,
    ]
    arguments = [part for setting in settings for part in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--config", str(RECIPE), *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    for path in folder.glob("*.pt"):
        path.unlink()
    return None if done.returncode == 0 else f"{job.variant}, seed {job.seed}: {done.stderr.strip()[-500:]}"


def folder_of(variant: str, seed: int, runs: Path) -> Path:
    name = "".join(letter if letter.isalnum() else "_" for letter in variant)
    return runs / name / str(seed)


def last_scores(folder: Path) -> dict[int, float] | None:
    """EER in percent at each prefix after the last epoch; None for a run that is not done."""
    if not (folder / "summary.json").exists():
        return None
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = [record for record in map(json.loads, lines) if record["kind"] == "epoch"][-1]
    return {dim: 100 * last[f"eer/val/{dim}"] for dim in DIMS}


def report(seeds: Sequence[int], runs: Path) -> str:
    """A table for each group of options: the change of EER in points, with its 95 % interval over the seeds."""
    plain = _scores(PLAIN, seeds, runs)
    parts = [
        INTRODUCTION,
        f"EER of the plain run in %, mean of {len(plain)} seeds: "
        + ", ".join(f"{np.mean([s[dim] for s in plain.values()]):.2f} at {dim}" for dim in DIMS)
        + ". Below: the change in points against the plain run of the same seed, mean and 95 % interval (Student's t "
        "over the seeds); bold where the interval leaves out 0, which by chance alone one cell in twenty would.",
    ]
    for group, variants in VARIANTS.items():
        lines = [f"| {group} | " + " | ".join(f"at {dim}" for dim in DIMS) + " | mean |"]
        lines.append("|---" * (len(DIMS) + 2) + "|")
        for name in variants:
            scores = _scores(name, seeds, runs)
            shared = sorted(scores.keys() & plain.keys())
            if len(shared) > 1:
                lines.append(f"| {name} | {' | '.join(_changes(plain, scores, shared))} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _scores(variant: str, seeds: Sequence[int], runs: Path) -> dict[int, dict[int, float]]:
    found = {seed: last_scores(folder_of(variant, seed, runs)) for seed in seeds}
    return {seed: scores for seed, scores in found.items() if scores is not None}


def _changes(
    plain: Mapping[int, Mapping[int, float]], scores: Mapping[int, Mapping[int, float]], seeds: Sequence[int]
) -> list[str]:
    changes = np.array([[scores[seed][dim] - plain[seed][dim] for dim in DIMS] for seed in seeds])
    columns = np.concatenate([changes, changes.mean(1, keepdims=True)], axis=1).T
    cells = []
    for values in columns:
        middle = float(values.mean())
        half = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
        text = f"{middle:+.2f} ± {half:.2f}"
        cells.append(f"**{text}**" if abs(middle) > half else text)
    return cells


def main() -> int:
    open_missing()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--runs", type=Path, default=Path("logs/ablation"), help="where runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, a thread each")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these options alone")
    parser.add_argument("--output", type=Path, help="write the tables there (default: print them)")
    options = parser.parse_args()
    if "MRL_SPEECH" not in os.environ:
        print(
            "error: MRL_SPEECH is not set; it names a folder with train/, val/ and trials/", file=sys.stderr
        )
        return 2
    runs = options.runs.resolve()
    todo = jobs(options.seeds, options.only)
    console, failures = Console(), []
    with ThreadPoolExecutor(options.jobs) as pool, console.progress("runs", len(todo)) as bar:
        for done in as_completed([pool.submit(run, job, runs) for job in todo]):
            if (failure := done.result()) is not None:
                failures.append(failure)
                console.say(f"failed: {failure}")
            bar.advance(1)
    text = report(options.seeds, runs)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
