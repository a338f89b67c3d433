"""Each promise of docs/reliability.md is held by a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)
    assert len(named) > 40
    for path, function in named:
        module = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
        assert not function or function in functions, f"{path}::{function}"


def test_every_promise_names_a_test():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and "promise | test" not in line]
    promises = [row for row in rows if "uv run" not in row and "| figures |" not in row]
    assert len(promises) > 40
    assert all("`tests/" in row for row in promises)


def test_those_called_slow_are_marked_so():
    for path, function in re.findall(r"`(tests/[\w/]+\.py)::(\w+)` \(slow\)", TEXT):
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"@pytest\.mark\.slow\n(@.*\n)*def {function}\(", source), f"{path}::{function}"
