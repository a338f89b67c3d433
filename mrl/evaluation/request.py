"""What evaluate.py is asked to do, known before anything slow is imported."""

from __future__ import annotations

from dataclasses import dataclass

PARTS = ("baselines", "cohort", "grids", "cascade", "search")
"""What an evaluation does on request, besides scoring the lists."""


@dataclass(frozen=True)
class Request:
    """What to evaluate. The lists of the command line go before those of the configuration."""

    checkpoint: str
    lists: tuple[tuple[str, str], ...] = ()  # (trial list, root)
    config: str | None = None  # a file whose sections evaluation and data count in place of the checkpoint's
    overrides: tuple[str, ...] = ()
    dims: tuple[int, ...] | None = None
    parts: frozenset[str] = frozenset()
    output: str | None = None
    with_scores: bool = False
    replace_decisions: bool = False
    device: str = "auto"
    workers: int = 4
    command: str = ""
