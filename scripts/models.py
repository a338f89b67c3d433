"""List the released checkpoints that `model.pretrained` takes by name: ``python scripts/models.py``.

EER in percent on the VoxCeleb1 lists, as published by the authors; "-" where they publish none.
"""

from __future__ import annotations

import argparse
import sys

from mrl.console import Console
from mrl.models.registry import PROTOCOLS, REGISTRY, ReleasedCheckpoint, published
from mrl.standard_streams import open_missing

COLUMNS = ("name", "parameters (M)", *(f"EER {protocol}" for protocol in PROTOCOLS), "source of the figures")


def row(checkpoint: ReleasedCheckpoint) -> list[str]:
    """The cells of one checkpoint, "-" for what is not published."""
    parameters = "-" if checkpoint.parameters is None else f"{checkpoint.parameters / 1e6:.1f}"
    rates = [checkpoint.eer[protocol] for protocol in PROTOCOLS]
    return [
        checkpoint.name,
        parameters,
        *(published(rate) for rate in rates),
        checkpoint.source,
    ]


def main(arguments: list[str] | None = None) -> int:
    open_missing()
    parser = argparse.ArgumentParser(prog="models.py", description=__doc__, allow_abbrev=False)
    parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    Console().table("Released checkpoints", COLUMNS, [row(checkpoint) for checkpoint in REGISTRY.values()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
