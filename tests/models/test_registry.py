from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import pytest

from mrl.errors import CheckpointError
from mrl.models.registry import PROTOCOLS, REGISTRY, lookup, published


def test_a_name_gives_repository_tag_and_file():
    checkpoint = lookup("redimnet-b2-vox2-ft_lm")
    assert checkpoint.url == "https://github.com/IDRnD/ReDimNet/releases/download/latest/b2-vox2-ft_lm.pt"
    assert (checkpoint.parameters, dict(checkpoint.eer)) == (
        4_700_000,
        {"vox1-o": 0.57, "vox1-e": 0.76, "vox1-h": 1.32},
    )


def test_a_plus_in_a_file_name_is_escaped():
    checkpoint = lookup("redimnet2-b6-vb2+vox2_v0-lm")
    assert checkpoint.url == (
        "https://github.com/PalabraAI/redimnet2/releases/download/v1.0.0/b6-vb2%2Bvox2_v0-lm.pt"
    )
    assert checkpoint.eer["vox1-h"] == 0.68


def test_every_file_of_the_releases_is_listed_once():
    # 7 sizes x 2 and S, M x 2 of ReDimNet; 7 x 2, 3 of b6 and 2 x 2 of ReDimNet2.
    assert len(REGISTRY) == (14 + 4) + (14 + 3 + 4)
    assert len({checkpoint.url for checkpoint in REGISTRY.values()}) == len(REGISTRY)
    for name, checkpoint in REGISTRY.items():
        assert name == checkpoint.name
        assert name.split("-", 1)[1] + ".pt" == checkpoint.file
        assert unquote(urlsplit(checkpoint.url).path).endswith(f"/{checkpoint.file}")


def test_figures_have_a_source_and_stand_in_the_order_of_difficulty():
    for checkpoint in REGISTRY.values():
        rates = [checkpoint.eer[protocol] for protocol in PROTOCOLS]
        has_figures = checkpoint.parameters is not None or rates != [None] * 3
        assert (checkpoint.source != "-") == has_figures
        if rates[0] is not None:
            assert 0.1 < rates[0] < 2
            assert max(rates) == rates[2]


def test_known_digests_are_digests():
    digests = [checkpoint.sha256 for checkpoint in REGISTRY.values() if checkpoint.sha256]
    assert digests
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests)
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("redimnet-b2-vox2-ftlm", "redimnet-b2-vox2-ft_lm"),
        ("redimnet2-b6-vb2-vox2-lm", "redimnet2-b6-vb2"),
        ("b6-vb2", "redimnet2-b6-vb2+vox2_v0-ptn"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, meant):
    with pytest.raises(CheckpointError, match=re.escape(meant)) as raised:
        lookup(name)
    assert "scripts/models.py" in str(raised.value)


@pytest.mark.parametrize("name", ["", "zzzzzz"])
def test_a_name_like_no_other_is_answered_with_the_way_to_list_them(name):
    with pytest.raises(CheckpointError, match="no released model is called so; `python"):
        lookup(name)


def test_figures_are_shown_with_the_digits_of_their_source():
    assert [published(figure) for figure in (0.5, 2.2, 0.835, 2.000, None)] == [
        "0.50",
        "2.20",
        "0.835",
        "2.00",
        "-",
    ]
