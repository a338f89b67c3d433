"""Damaged inputs by the thousand: ``python scripts/fuzz.py --inputs 20000 --seed 0``.

Configurations, overrides, trial lists, enrolment maps, manifests, packed corpora, checkpoints, released files, decision
bundles, .env files and command lines are damaged and read. Each must be accepted or refused in words; what fails is
written to a folder with the way to repeat it, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests are no installed package

from mrl.console import Console  # noqa: E402
from mrl.standard_streams import open_missing  # noqa: E402
from tests.fuzz.campaign import Tally, attack, save_failures  # noqa: E402
from tests.fuzz.targets import SHARES, targets  # noqa: E402

COLUMNS = ("target", "inputs", "accepted", "refused", "failed", "slowest (s)")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--inputs", type=int, default=20_000, metavar="N", help="of all targets together")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other seeds give other inputs")
    parser.add_argument("--targets", nargs="+", choices=list(SHARES), default=list(SHARES), metavar="NAME")
    parser.add_argument("--only", type=int, metavar="N", help="the input of this number alone")
    parser.add_argument("--failures", type=Path, default=Path("fuzz_failures"), metavar="DIR")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    open_missing()
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    torch.set_num_threads(1)
    tallies: dict[str, Tally] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        made = targets(Path(folder))
        for name in options.targets:
            tallies[name] = attack(made[name], name, numbers(options, name), options.seed)
            save_failures(options.failures, name, options.seed, tallies[name])
    tried = sum(tally.tried for tally in tallies.values())
    failed = sum(len(tally.failures) for tally in tallies.values())
    rows = [row(name, tally) for name, tally in tallies.items()]
    console.table(f"{tried:,} inputs in {time.monotonic() - began:.0f} s", COLUMNS, rows)
    if failed:
        console.say(f"{failed} failures: see {options.failures}")
    return 1 if failed else 0


def numbers(options: argparse.Namespace, name: str) -> range:
    """Of the inputs of the target ``name``: its share of all, rounded up, or the one that is asked for."""
    if options.only is not None:
        return range(options.only, options.only + 1)
    whole = sum(SHARES[chosen] for chosen in options.targets)
    return range(-(-options.inputs * SHARES[name] // whole))


def row(name: str, tally: Tally) -> list[str]:
    """One line of the table."""
    counts = (tally.tried, tally.accepted, tally.refused, len(tally.failures))
    return [name, *(f"{count:,}" for count in counts), f"{tally.slowest:.2f}"]


if __name__ == "__main__":
    sys.exit(main())
