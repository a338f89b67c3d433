"""Check that a demo run showed what the tool is for: ``python scripts/check_demo.py logs/demo/summary.json``.

The stages must improve the mean EER and each prefix shorter than the full size, and the full size must not get
worse. Exit code 1 with one line for each of these that does not hold.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def shortcomings(summary: dict[str, Any]) -> list[str]:
    """What the summary of a finished run fails to show."""
    rows = {row["weights"]: row for row in summary["rows"]}
    start, best = rows["pretrained"], rows["best.pt"]
    *shorter, full = (str(dim) for dim in summary["dims"])
    found = []
    if not start["eer"][full] > 0:
        found.append(
            f"the pretrained encoder makes no errors at {full}: the demo is too easy to show anything"
        )
    if not start["eer"][shorter[0]] > start["eer"][full]:
        found.append(f"the pretrained {shorter[0]}-number prefix is not worse than the full size")
    if not best["mean_eer"] < start["mean_eer"]:
        found.append(f"mean EER did not fall: {start['mean_eer']:.4f} -> {best['mean_eer']:.4f}")
    for dim in shorter:
        if not best["eer"][dim] < start["eer"][dim]:
            found.append(f"EER at {dim} did not fall: {start['eer'][dim]:.4f} -> {best['eer'][dim]:.4f}")
    if best["eer"][full] > start["eer"][full]:
        found.append(f"EER at full size rose: {start['eer'][full]:.4f} -> {best['eer'][full]:.4f}")
    return found


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: check_demo.py SUMMARY_JSON", file=sys.stderr)
        return 2
    found = shortcomings(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    for line in found:
        print(f"demo: {line}", file=sys.stderr)
    if not found:
        print("demo: the short prefixes improved and the full size did not get worse")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
