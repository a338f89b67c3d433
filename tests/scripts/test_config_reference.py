"""docs/configuration.md says what the types say."""

from __future__ import annotations

from scripts import config_reference


def test_the_reference_is_up_to_date():
    assert config_reference.main(["--check"]) == 0, "run python scripts/config_reference.py"


def test_every_key_has_a_text():
    rows = [line for line in config_reference.reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    without = [row.split("|")[1].strip() for row in rows if not row.split("|")[-2].strip()]
    assert not without


def test_bounds_and_choices_are_shown():
    text = config_reference.reference()
    assert "| `dropout` | number, >= 0, < 1 | `0` |" in text
    assert "`cosine` \\| `cosine_restarts`" in text
    assert "| `early_stopping_patience` | integer or null, >= 1 | `null` |" in text
