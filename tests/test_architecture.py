"""The house: a file imports only from its own floor and the floors below."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [
    {
        "config",
        "config_file",
        "config_problems",
        "errors",
        "randomness",
        "device",
        "atomic",
        "audio",
        "console",
        "progress",
        "line_file",
        "read_ahead",
        "processes",
        "audio_sources",
        "packed",
        "shards",
        "stored_zip",
        "locking",
        "stopping",
        "standard_streams",
        "open_files",
        "writable",
    },
    {"models"},
    {"data", "loss"},
    {"evaluation"},
    {"training"},
]
MODULES = sorted((ROOT / "mrl").rglob("*.py"))


def floor_of(part: str) -> int:
    found = [level for level, parts in enumerate(FLOORS) if part in parts]
    assert found, f"mrl/{part} stands on no floor: add it to the list, and to docs/architecture.md"
    return found[0]


def imported_parts(path: Path) -> set[str]:
    """Parts of mrl that a file imports, wherever in the file."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts |= {name.split(".")[1] for name in names if name.startswith("mrl.")}
    return parts


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    relative = path.relative_to(ROOT / "mrl")
    if relative == Path("__init__.py"):
        return
    own = relative.parts[0].removesuffix(".py")
    for part in imported_parts(path):
        assert floor_of(part) <= floor_of(own), (
            f"{relative} (floor {floor_of(own)}) imports mrl.{part} from above"
        )


@pytest.mark.parametrize("name", ["train.py", "evaluate.py"])
def test_entry_scripts_stay_thin(name):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) < 100


def test_every_module_has_a_line_in_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = [str(path.relative_to(ROOT)) for path in MODULES if path.name != "__init__.py"]
    missing = [name for name in named if f"`{name}`" not in text]
    assert not missing, f"docs/architecture.md lists no {missing}"
