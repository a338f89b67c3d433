"""What a checkpoint must hold for a run to go on."""

from __future__ import annotations

from mrl.training.run_content import _State
from mrl.training.run_state import RunState


def test_every_field_of_a_run_is_checked():
    assert _State.model_fields.keys() == RunState.__dataclass_fields__.keys()
    assert _State().model_dump() == RunState().to_dict()
