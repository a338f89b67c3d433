"""Released checkpoints: what is accepted, and that every defect is refused by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mrl.errors import CheckpointError
from mrl.models.options import SpecOptions
from mrl.models.pretrained import build_released, load_released, save_released
from mrl.models.redimnet import ReDimNet, ReDimNetOptions
from mrl.models.redimnet2 import ReDimNet2, ReDimNet2Options

Content = dict[str, Any]


@pytest.fixture
def content(tiny_config) -> Content:
    """A checkpoint that loads."""
    return {"model_config": tiny_config, "state_dict": build_released(tiny_config, seed=1).state_dict()}


def written(content: Any, folder: Path, name: str = "model.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def refusal(content: Any, folder: Path) -> str:
    path = written(content, folder)
    with pytest.raises(CheckpointError) as raised:
        load_released(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    return message


def test_round_trip(tiny_config, waveforms, tmp_path):
    model = build_released(tiny_config, seed=5).eval()
    save_released(model, tiny_config, tmp_path / "new" / "model.pt")
    loaded = load_released(str(tmp_path / "new" / "model.pt"))
    assert isinstance(loaded, ReDimNet)
    assert not loaded.training
    assert loaded.model_config == tiny_config
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)
    with torch.no_grad():
        assert torch.equal(loaded(waveforms), model(waveforms))
    assert os.listdir(tmp_path / "new") == ["model.pt"], "no temporary file is left"


def test_the_name_of_the_file_and_further_entries_mean_nothing(content, tmp_path):
    path = written({**content, "epoch": 3, "notes": ["x"]}, tmp_path, "redimnet2-b6-vox2.pt")
    assert isinstance(load_released(path), ReDimNet)


def test_half_precision_files_become_float32(content, tmp_path):
    state = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in content["state_dict"].items()
    }
    model = load_released(written({**content, "state_dict": state}, tmp_path))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_each_missing_extra_or_misshapen_tensor_is_named(data, content, tmp_path):
    state = dict(content["state_dict"])
    removed = data.draw(st.lists(st.sampled_from(sorted(state)), unique=True, max_size=3))
    for key in removed:
        del state[key]
    added = data.draw(st.lists(st.sampled_from(["pool.linear3.weight", "head.weight"]), unique=True))
    state.update({key: torch.zeros(3, 5) for key in added})
    misshapen = data.draw(st.sampled_from(sorted(set(state) - set(added))))
    found = torch.zeros(*state[misshapen].shape, 7)
    expected = list(state[misshapen].shape)
    state[misshapen] = found

    lines = refusal({**content, "state_dict": state}, tmp_path).splitlines()[1:]
    assert len(lines) == len(removed) + len(added) + 1
    assert {line.split()[2] for line in lines if "missing:" in line} == set(removed)
    assert {line.split()[2] for line in lines if "extra:" in line} == set(added)
    assert lines[-1] == f"  - {misshapen} has shape {list(found.shape)}, the model's is {expected}"


def test_a_long_list_of_defects_is_cut(content, tmp_path):
    message = refusal({**content, "state_dict": {}}, tmp_path)
    total = len(content["state_dict"])
    assert message.endswith(f"and {total - 20} more")


@pytest.mark.parametrize(
    ("key", "change", "complaint"),
    [
        ("linear.bias", lambda tensor: tensor * float("nan"), "holds values that are not finite"),
        ("bn.running_var", lambda tensor: tensor / 0, "holds values that are not finite"),
        ("linear.weight", lambda tensor: tensor.long(), "is torch.int64, the model's is torch.float32"),
        ("spec.torchfbank.2.mel_scale.fb", lambda tensor: tensor.roll(1, 0), "is not the front-end constant"),
        ("spec.torchfbank.2.spectrogram.window", lambda tensor: tensor**2, "is not the front-end constant"),
    ],
)
def test_unusable_values_are_named(content, tmp_path, key, change, complaint):
    state = {**content["state_dict"], key: change(content["state_dict"][key])}
    assert f"  - {key} {complaint}" in refusal({**content, "state_dict": state}, tmp_path)


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_code_in_a_file_is_not_run(content, tmp_path):
    target = tmp_path / "pwned"
    message = refusal({**content, "extra": Malicious(target)}, tmp_path)
    assert "code is never run" in message
    assert "weights_only" not in message, "PyTorch's advice would run the code"
    assert not target.exists()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"<!DOCTYPE html><html>Not found</html>", "a web page"),
        (b"\n <html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"", "not a readable checkpoint"),
        (b"some text", "not a readable checkpoint"),
    ],
)
def test_files_of_other_kinds(tmp_path, data, complaint):
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=complaint):
        load_released(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_refused_in_the_same_way(tmp_path, data):
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        load_released(path)


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_a_truncated_download(content, tmp_path, fraction):
    path = written(content, tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(CheckpointError, match="perhaps cut short"):
        load_released(path)


@pytest.mark.parametrize(
    ("name", "said"), [("nothing.pt", "no such file"), (".", "a folder; name a file in it")]
)
def test_a_file_that_is_not_there(tmp_path, name, said):
    with pytest.raises(CheckpointError, match=said):
        load_released(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([1, 2], "holds a list; expected {'model_config'"),
        ({"linear.weight": torch.zeros(2)}, "no mapping 'model_config' among 'linear.weight'"),
        ({"model_config": {}}, "no mapping 'state_dict'"),
        ({"model_config": {}, "state_dict": {"a": 1}}, "state_dict['a'] is int, not a tensor"),
        ({"model_config": {}, "state_dict": {}}, "no stages_setup"),
    ],
)
def test_files_of_another_layout(tmp_path, content, complaint):
    assert complaint in refusal(content, tmp_path)


def test_a_first_generation_file_is_recognised(content, tmp_path):
    state: dict[str, Tensor] = {**content["state_dict"], "backbone.inputs_weights.0": torch.ones(1, 1, 1, 1)}
    assert "first-generation" in refusal({**content, "state_dict": state}, tmp_path)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("no_such_option", 1),
        ("block_1d_type", "gru"),
        ("block_2d_type", "convnext_like_relu"),
        ("pooling_func", "TSTP_var"),
        ("pooling_func", "ASP"),
        ("feat_type", "tf_spec"),
        ("tf_optimized_arch", True),
        ("num_classes", 5994),
        ("causal", "none"),
        ("hop_length", 160.5),
        ("hop_length", "160"),
        ("emb_bn", 1),
        ("group_divisor", 0),
        ("spec_params.spec_norm", "mvn"),
        ("spec_params.f_max", 8000),
        ("spec_params.window", "hann"),
        ("stages_setup.1", [4, 1, 1, [[3, 3]], None]),
        ("stages_setup.1", [1, 1, 1, [[3, 3]]]),
        ("stages_setup.0", [1, 1.5, 1, [[3, 3]], None]),
        ("stages_setup.0", [1, 1, 0, [[3, 3]], None]),
        ("stages_setup.0", [1, 1, 1, [[3, 3]], 0]),
    ],
)
def test_an_option_that_is_unknown_or_not_supported_is_named(tiny_config, option, value):
    top, _, inner = option.partition(".")
    if top == "stages_setup":
        value = [*tiny_config[top][: int(inner)], value, *tiny_config[top][int(inner) + 1 :]]
    elif inner:
        value = {inner: value}
    with pytest.raises(CheckpointError) as raised:
        build_released({**tiny_config, top: value}, source="some file")
    assert str(raised.value).startswith("some file: ")
    assert f"\n  - {option}: " in str(raised.value)


def test_all_bad_options_come_in_one_message(tiny_config):
    with pytest.raises(CheckpointError) as raised:
        build_released({**tiny_config, "colour": "red", "C": -1, "spec_params": {"n_fft": 1024}})
    assert [line.split(":")[0] for line in str(raised.value).splitlines()[1:]] == [
        "  - C",
        "  - spec_params.n_fft",
        "  - colour",
    ]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"stages_setup": [[3, 1, 1, [[3, 3]], None], [3, 1, 1, [[3, 3]], None]]},
            "8 rows cannot be cut by 3",
        ),
        ({"stages_setup": [[1, 1, 1, [[3, 3]], 7]]}, "13 channels of a 1-D block cannot be cut into 4"),
        (
            {"group_divisor": 3, "C": 4, "F": 24, "stages_setup": [[2, 1, 1.25, [[3, 3]], 12]]},
            "cannot be cut",
        ),
        ({"pooling_func": "MQMHASTP", "out_channels": 12}, "cannot be cut into 8 heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tiny_config, change, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        build_released({**tiny_config, **change})


def test_the_families_are_told_by_their_strides(tiny_config):
    pairs = [[[1, 1], 1, 1, [[3, 3]], None], [[2, 2], 1, 1, [[3, 3]], 12]]
    second = {"F": 24, "C": 4, "stages_setup": pairs, "causal": "none", "spec_params": {}}
    assert isinstance(build_released(second), ReDimNet2)
    assert isinstance(build_released(tiny_config), ReDimNet)
    with pytest.raises(CheckpointError, match="mixes the stages"):
        build_released({**tiny_config, "stages_setup": [tiny_config["stages_setup"][0], pairs[1]]})


@pytest.mark.parametrize("stages", [None, [], "abc", [[]], [7]])
def test_stages_that_are_none(tiny_config, stages):
    with pytest.raises(CheckpointError, match="stages_setup"):
        build_released({**tiny_config, "stages_setup": stages})


def test_tuples_and_lists_mean_the_same(tiny_config):
    tuples = tuple(
        (stride, blocks, 1, ((3, 3),), red) for stride, blocks, _, _, red in tiny_config["stages_setup"]
    )
    ours = build_released({**tiny_config, "stages_setup": tuples}).state_dict()
    assert list(ours) == list(build_released(tiny_config).state_dict())


@pytest.mark.parametrize("options", [ReDimNetOptions, ReDimNet2Options, SpecOptions])
def test_ignored_options_have_a_reason_and_no_field(options):
    assert all(len(reason) > 20 for reason in options.IGNORED.values())
    aliases = {field.alias or name for name, field in options.model_fields.items()}
    assert not aliases & set(options.IGNORED)


def test_ignored_options_change_nothing(tiny_config):
    ignored = {
        "class_dropout": 0.5,
        "head_activation": "nn.ReLU()",
        "feat_agg_dropout": 0.3,
        "return_all_outputs": True,
        "spec_params": {"do_spec_aug": True, "freq_mask_width": (0, 6), "time_mask_width": [0, 8]},
    }
    plain, with_ignored = build_released(tiny_config), build_released({**tiny_config, **ignored})
    waveform = torch.randn(2, 4000)
    assert torch.equal(plain(waveform), with_ignored(waveform))


def test_fresh_weights_depend_on_the_seed_alone(tiny_config):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = build_released(tiny_config, seed=3)
    assert torch.equal(torch.rand(3), expected), "the global generator must not move"
    again, other = build_released(tiny_config, seed=3), build_released(tiny_config, seed=4)
    assert torch.equal(first.linear.weight, again.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)
