"""Damaged configurations, overrides and .env files."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import yaml

from mrl.config_file import config_to_dict, load_config, load_environment
from tests.fuzz.byte_damage import mutated_bytes
from tests.fuzz.campaign import Input, Target
from tests.fuzz.odd_values import VALUES
from tests.fuzz.tree_damage import mutated_tree

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config.yaml"
RECIPES = [CONFIG, *sorted((ROOT / "configs").glob("*.yaml"))]

BASES = ["tried.yaml", "cycle.yaml", ".", "", "no.yaml", "../config.yaml", "a\0b", [], 3, "x" * 300]
"""What ``extends`` may name."""

KEYS = [
    "seed", "stages.head.epochs", "stages.0.batch_size", "stages", "prefixes.0.dim", "prefixes", "model.pretrained",
    "data.train", "data.train.0.path", "validation.lists.vox1-o.root", "loss", "loss.type", "runtime",
    "logging.wandb", "stages.head.augmentation.noise_snr_db", "checkpoints.select_by", "evaluation.p_targets",
    "demo", "extends", "", "stages.99.epochs", "stages.x.epochs", ".", "..", "a" * 300, "a." * 3000, "seed.x",
    "stages.head.prefix_start.64", "stages." + "9" * 5000,
]  # fmt: skip


def configs(folder: Path) -> Target:
    """A recipe with damaged bytes, values, or another file that it extends."""
    (folder / "configs").mkdir()
    recipes = [path.read_bytes() for path in RECIPES]
    (folder / "config.yaml").write_bytes(recipes[0])
    path = folder / "configs" / "tried.yaml"
    (folder / "configs" / "cycle.yaml").write_text("extends: tried.yaml\n")

    def target(rng: random.Random) -> Input:
        content = rng.choice(recipes)
        match rng.randrange(5):
            case 0 | 1:
                content = mutated_bytes(rng, content)
            case 2 | 3:
                content = _dumped(rng, mutated_tree(rng, yaml.safe_load(content)))
            case _:
                tree = {**yaml.safe_load(content), "extends": rng.choice(BASES)}
                content = _dumped(rng, mutated_tree(rng, tree))

        def run() -> object:
            path.write_bytes(content)
            return config_to_dict(load_config(path))

        return Input(run, content, ("tried.yaml", "config.yaml", "cycle.yaml"))

    return target


def _dumped(rng: random.Random, tree: Any) -> bytes:
    """YAML of ``tree``, now and then with an anchor and aliases, or damaged once more."""
    dumper: Any = yaml.Dumper if rng.random() < 0.1 else yaml.SafeDumper
    try:
        text = yaml.dump(tree, Dumper=dumper, allow_unicode=rng.random() < 0.5, default_flow_style=None)
    except (yaml.YAMLError, RecursionError, ValueError):  # which the damage can lead to: no YAML says it
        text = repr(tree)[:10_000]
    content = text.encode("utf-8", "surrogatepass")
    return mutated_bytes(rng, content) if rng.random() < 0.2 else content


def overrides(folder: Path) -> Target:
    """One to three overrides of a good configuration."""
    path = folder / "run.yaml"
    path.write_bytes(CONFIG.read_bytes())

    def target(rng: random.Random) -> Input:
        texts = [_override(rng) for _ in range(rng.randint(1, 3))]
        saved = "\n".join(texts).encode("utf-8", "surrogatepass")
        return Input(lambda: load_config(path, texts), saved, ("--set", "run.yaml"))

    return target


def _override(rng: random.Random) -> str:
    value = json.dumps(rng.choice(VALUES)) if rng.random() < 0.5 else str(rng.choice(VALUES))
    text = f"{rng.choice(KEYS)}={value}"
    if rng.random() < 0.3:
        damaged = mutated_bytes(rng, text.encode("utf-8", "surrogatepass"))
        text = damaged.decode("utf-8", "surrogateescape")
    return text


def environments(folder: Path) -> Target:
    """A damaged .env file; what it sets is taken back."""
    path = folder / ".env"
    good = b"WANDB_API_KEY=abc\nexport MRL_HOME='x y'\nOTHER=\"a\\nb\"\n# said\nTHIRD=${OTHER}x\n"

    def target(rng: random.Random) -> Input:
        content = mutated_bytes(rng, good)

        def run() -> None:
            path.write_bytes(content)
            before = set(os.environ)
            try:
                load_environment(path)
            finally:
                for name in set(os.environ) - before:
                    del os.environ[name]

        return Input(run, content, (".env",))

    return target
