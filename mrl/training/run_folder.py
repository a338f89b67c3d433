"""The files of a run in its log folder: kept under numbers by the next run, cut back by a resumed one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from mrl.atomic import write_atomically

METRICS, LOG, CONFIG = "metrics.jsonl", "training.log", "config.yaml"


def make_folder(directory: Path) -> Path:
    """Create the folder, and those above it, where missing; returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def set_aside(directory: Path, *names: str) -> list[str]:
    """Rename those of ``names`` that exist, all with the first number that none of them has yet.

    Returns the new names: ``metrics.jsonl`` becomes ``metrics.1.jsonl``.
    """
    present = [name for name in names if (directory / name).exists()]
    number = 1
    while any((directory / _numbered(name, number)).exists() for name in names):
        number += 1
    for name in present:
        (directory / name).rename(directory / _numbered(name, number))
    return [_numbered(name, number) for name in present]


def drop_records_after(metrics: Path, step: int, epoch: int | None = None) -> None:
    """Rewrite a metrics file, all or nothing, without records beyond ``step`` and without broken lines.

    An epoch that only averages weights ends with the same step as the one before: ``epoch`` tells them apart.
    """
    if not metrics.exists():
        return

    def write(temporary: Path) -> None:
        with metrics.open("rb") as old, temporary.open("wb") as new:
            new.writelines(line for line in old if _is_kept(line, step, epoch))

    write_atomically(metrics, write)


def write_config(directory: Path, run_config: dict[str, Any]) -> None:
    """Write ``config.yaml``; one with other content (of a resumed run) is kept under a numbered name."""
    text = yaml.safe_dump(run_config, sort_keys=False, allow_unicode=True)
    path = directory / CONFIG
    if path.exists() and path.read_text(encoding="utf-8") != text:
        set_aside(directory, CONFIG)

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def tensorboard_folder(directory: Path, *, resumed: bool) -> Path:
    """``tensorboard/run-<n>``: the last one for a resumed run, a new one otherwise."""
    parent = directory / "tensorboard"
    numbers = [
        int(match[1]) for path in parent.glob("run-*") if (match := re.fullmatch(r"run-(\d+)", path.name))
    ]
    last = max(numbers, default=0)
    return parent / f"run-{max(1, last) if resumed else last + 1}"


def _numbered(name: str, number: int) -> str:
    path = Path(name)
    return f"{path.stem}.{number}{path.suffix}"


def _is_kept(line: bytes, step: int, epoch: int | None) -> bool:
    try:
        record = json.loads(line)
        is_later = epoch is not None and record["kind"] == "epoch" and record["epoch"] > epoch
        return line.endswith(b"\n") and record["step"] <= step and not is_later
    except (ValueError, KeyError, TypeError):
        return False
