"""All benchmarks, one after the other, into docs/benchmarks.md: ``python -m benchmarks [name ...]``."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import time
from pathlib import Path

import torch

from benchmarks.table import Table

NAMES = ("backbone", "loss", "feature_cache", "training_step", "decoding", "scanning", "evaluation")
DOCUMENT = Path("docs/benchmarks.md")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that they work; writes nothing"
    )
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(NAMES)):
        parser.error(f"no benchmark is called {unknown[0]}; there are {', '.join(NAMES)}")
    tables: list[Table] = []
    started = time.perf_counter()
    for name in arguments.names or NAMES:
        for table in importlib.import_module(f"benchmarks.{name}").run(quick=arguments.quick):
            table.show()
            tables.append(table)
    if not arguments.names and not arguments.quick:
        minutes = (time.perf_counter() - started) / 60
        DOCUMENT.write_text(document(tables, minutes), encoding="utf-8")
        print(f"written to {DOCUMENT} after {minutes:.1f} min")


def document(tables: list[Table], minutes: float) -> str:
    """The text of docs/benchmarks.md."""
    intro = (
        "# Benchmarks\n\n"
        "Each table times our path beside a plain implementation of what is usually done, in one run, taking\n"
        "turns; the figures are medians (with the range of the rounds), and a ratio is the median of the rounds'\n"
        "quotients. The plain paths stand in `benchmarks/` too, and tests hold the two to the same numbers.\n\n"
        f"All of it: `make bench`, {minutes:.0f} minutes on {machine()}.\n"
    )
    return "\n".join([intro, *(table.markdown() for table in tables)])


def machine() -> str:
    """What this runs on, in words."""
    threads = torch.get_num_threads()
    parts = [f"{_processor()}, {threads} threads", f"torch {torch.__version__.partition('+')[0]}"]
    if torch.cuda.is_available():
        parts.insert(1, torch.cuda.get_device_name())
    return ", ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0]}" if names else platform.machine()


if __name__ == "__main__":
    main()
