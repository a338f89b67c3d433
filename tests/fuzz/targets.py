"""What is attacked: each target makes damaged inputs from good ones, and reads them as train.py and evaluate.py do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fuzz.campaign import Target
from tests.fuzz.checkpoint_targets import decision_bundles, released_files, run_checkpoints
from tests.fuzz.command_line_target import command_lines
from tests.fuzz.config_targets import configs, environments, overrides
from tests.fuzz.data_targets import enrolment_maps, manifests, packed_corpora, trial_lists

MAKERS: dict[Callable[[Path], Target], int] = {  # with their shares of the inputs
    configs: 20,
    overrides: 15,
    trial_lists: 20,
    enrolment_maps: 8,
    manifests: 6,
    packed_corpora: 5,
    run_checkpoints: 9,
    released_files: 6,
    decision_bundles: 5,
    environments: 3,
    command_lines: 3,
}
SHARES = {maker.__name__: share for maker, share in MAKERS.items()}
"""Of the inputs, by target."""


def targets(folder: Path) -> dict[str, Target]:
    """Every target by name; their material lies in ``folder``, which is empty."""
    made = {}
    for maker in MAKERS:
        place = folder / maker.__name__
        place.mkdir()
        made[maker.__name__] = maker(place)
    return made
