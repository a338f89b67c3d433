"""What a benchmark found: a table with the command that makes it, on the console and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table as RichTable


@dataclass(frozen=True)
class Claim:
    """A number that is promised: ``value`` is to be at least, or at most, ``bound``."""

    text: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        word = "at most" if self.at_most else "at least"
        return f"{self.text}: {self.value:.3g}, promised {word} {self.bound:g}{'' if self.holds else ' (MISSED)'}"


@dataclass(frozen=True)
class Table:
    """Rows of text under ``columns``; ``command`` measures them again."""

    title: str
    command: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    claims: Sequence[Claim] = field(default_factory=tuple)
    notes: str = ""

    def show(self) -> None:
        """Print it on the console."""
        console = Console()
        drawn = RichTable(*self.columns, title=self.title, title_justify="left")
        for row in self.rows:
            drawn.add_row(*row)
        console.print(drawn)
        for line in [*(str(claim) for claim in self.claims), self.notes]:
            if line:
                console.print(line, highlight=False, markup=False)

    def markdown(self) -> str:
        """A section of a document."""
        lines = [f"## {self.title}", "", f"`{self.command}`", ""]
        lines += [_line(self.columns), _line(["---"] * len(self.columns)), *map(_line, self.rows), ""]
        lines += [f"- {claim}" for claim in self.claims]
        if self.notes:
            lines += ["", self.notes] if self.claims else [self.notes]
        return "\n".join(lines).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
