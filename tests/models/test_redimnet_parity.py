"""Our models against outputs of the authors' code, at each point of the network.

Tolerances are the ones advised beside the references: two runs of the authors' code on one and two threads differ by
a tenth of them, a wrong detail (the other GELU, a biased variance) by ten times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mrl.errors import CheckpointError
from mrl.models.pretrained import load_released
from mrl.models.redimnet import ReDimNet
from mrl.models.redimnet2 import ReDimNet2
from mrl.models.released import ReleasedModel

CASES = [
    "rdn_t01_convnext_convatt_s3",
    "rdn_t02_resnet_convatt_exp",
    "rdn_t03_fwse_att_out",
    "rdn_t04_convnext_conv_tf",
    "rdn_t05_resnet_fc_embbn_tstp",
    "rdn_t06_fwse_convatt_f72",
    "rdn2_t01_b6like_gnorm_2d",
    "rdn2_t02_b0like_out1d",
    "rdn2_t03_dualagg_gnorm",
    "rdn2_t04_convnext_k37_nocompress",
]


@pytest.fixture(scope="module", params=CASES)
def case(request, parity: Path, tmp_path_factory) -> tuple[dict[str, Any], ReleasedModel]:
    """The stored outputs, and the model that `load_released` makes of the same checkpoint."""
    stored = torch.load(parity / f"{request.param}.pt", weights_only=True)
    state = dict(stored["state_dict"])
    for key, file in stored["state_dict_external"].items():
        state[key] = torch.load(parity / file, weights_only=True)[key]
    path = tmp_path_factory.mktemp("released") / "model.pt"
    torch.save({"model_config": stored["model_config"], "state_dict": state}, path)
    return stored, load_released(path)


def assert_near(ours: torch.Tensor, reference: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, reference, atol=atol, rtol=0)


@torch.inference_mode()
def test_each_point_from_the_stored_mel(case):
    stored, model = case
    features = model.frame_features(stored["mel"])
    pooled = model.pool_features(features)
    assert_near(features, stored["frame_features"], 1e-4)
    assert_near(pooled, stored["pooled"], 2e-5)
    assert_near(model.project(pooled), stored["embedding"], 2e-5)


@torch.inference_mode()
def test_each_point_from_the_waveform(case):
    stored, model = case
    assert_near(model.mel(stored["waveform"]), stored["mel"], 5e-4)
    assert_near(model.pooled(stored["waveform"]), stored["pooled"], 5e-4)
    assert_near(model(stored["waveform"]), stored["embedding"], 5e-4)


def test_shape_and_size(case):
    stored, model = case
    assert type(model) is {"ReDimNetWrap": ReDimNet, "ReDimNet2Wrap": ReDimNet2}[stored["model_class"]]
    assert sum(parameter.numel() for parameter in model.parameters()) == stored["param_count"]
    assert model.embedding_dim == stored["embedding"].shape[1]
    assert model.pooled_dim == stored["pooled"].shape[1]
    assert model.model_config == stored["model_config"]
    assert not model.training


@pytest.mark.parametrize("name", ["missing_key", "wrong_shape", "extra_key"])
def test_a_broken_checkpoint_is_refused_by_the_name_of_its_tensor(name, parity):
    path = parity / f"rdn_broken_{name}.pt"
    defect = torch.load(path, weights_only=True)["defect"]
    with pytest.raises(CheckpointError) as raised:
        load_released(path)
    message = str(raised.value)
    assert str(path) in message
    assert message.count("\n") == 1, "one defect, one line"
    assert defect["key"] in message
    for shape in ("expected_shape", "found_shape"):
        assert shape not in defect or str(list(defect[shape])) in message
