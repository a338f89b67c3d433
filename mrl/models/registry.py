"""Released checkpoints by name: where each file lies and what its authors published about it.

EER is in percent on the VoxCeleb1 lists: that of ReDimNet b0 to b6 is of cosine scores without AS-norm; the
sources of the others do not say. Parameters are rounded by the authors, and those of a file may differ (b2 of
ReDimNet has 5.07 million). A figure that no source gives is None, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from urllib.parse import quote

from mrl.errors import CheckpointError

PROTOCOLS = ("vox1-o", "vox1-e", "vox1-h")
"""The trial lists that EERs are published for."""


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """One file of a release."""

    name: str
    repository: str  # owner/name
    tag: str
    file: str
    parameters: int | None
    eer: Mapping[str, float | None]  # percent, by protocol
    source: str  # of the figures
    size_bytes: int | None = None
    sha256: str | None = None

    @property
    def url(self) -> str:
        """Where the file is downloaded from."""
        return (
            f"https://github.com/{self.repository}/releases/download/{self.tag}/{quote(self.file, safe='')}"
        )


def lookup(name: str) -> ReleasedCheckpoint:
    """The checkpoint called ``name``. Raises CheckpointError for an unknown one, with the nearest names."""
    if name in REGISTRY:
        return REGISTRY[name]
    holding = [known for known in REGISTRY if name and name.lower() in known.lower()]
    nearest = holding or get_close_matches(name, REGISTRY, n=4, cutoff=0.5)
    meant = f"; the nearest: {', '.join(nearest[:4])}" if nearest else ""
    raise CheckpointError(
        f"{name!r}: no released model is called so{meant}; `python scripts/models.py` lists them all"
    )


def published(figure: float | None) -> str:
    """An EER with the digits of its source, two or three; "-" where there is none."""
    return "-" if figure is None else f"{figure:.3f}".removesuffix("0")


# ReDimNet: paper arXiv 2407.18223, Interspeech 2024. Figures: EVALUATION.md of the repository.
_REDIMNET = "IDRnD/ReDimNet"
_EVALUATION = "IDRnD/ReDimNet EVALUATION.md"
_REDIMNET_PARAMETERS = {  # "Paper metrics"; none are given for S and M
    "b0": 1_000_000,
    "b1": 2_200_000,
    "b2": 4_700_000,
    "b3": 3_000_000,
    "b4": 6_300_000,
    "b5": 9_200_000,
    "b6": 15_000_000,
}
_REDIMNET_EER = {  # O, E, H
    "b0-vox2-ft_lm": (1.16, 1.25, 2.20),
    "b1-vox2-ft_lm": (0.85, 0.97, 1.73),
    "b2-vox2-ft_lm": (0.57, 0.76, 1.32),
    "b3-vox2-ft_lm": (0.50, 0.73, 1.33),
    "b4-vox2-ft_lm": (0.51, 0.68, 1.26),
    "b5-vox2-ft_lm": (0.43, 0.61, 1.08),
    "b6-vox2-ft_lm": (0.40, 0.55, 1.05),
    "S-vb2-ptn": (1.542, 1.408, 2.505),
    "S-vb2+vox2+cnc-ft_mix": (0.936, 0.874, 1.510),
    "M-vb2-ptn": (1.319, 1.128, 2.000),
    "M-vb2+vox2+cnc-ft_mix": (0.835, 0.745, 1.284),
}

# ReDimNet2: paper arXiv 2603.11841. Figures: README.md of the repository, which names no train type: its EERs are
# read as those of `lm`, the type that it recommends.
_REDIMNET2 = "PalabraAI/redimnet2"
_README2 = "PalabraAI/redimnet2 README.md"
_REDIMNET2_PARAMETERS = {
    "b0-vox2": 1_100_000,
    "b1-vox2": 2_100_000,
    "b2-vox2": 3_600_000,
    "b3-vox2": 4_100_000,
    "b4-vox2": 6_600_000,
    "b5-vox2": 8_900_000,
    "b6-vox2": 12_300_000,
    "b6-vb2+vox2_v0": 12_500_000,
}
_REDIMNET2_EER = {  # O, E, H
    "b0-vox2-lm": (1.04, 1.16, 1.97),
    "b1-vox2-lm": (0.78, 0.96, 1.72),
    "b2-vox2-lm": (0.57, 0.76, 1.41),
    "b3-vox2-lm": (0.42, 0.66, 1.22),
    "b4-vox2-lm": (0.37, 0.58, 1.07),
    "b5-vox2-lm": (0.33, 0.56, 1.07),
    "b6-vox2-lm": (0.29, 0.52, 0.99),
    "b6-vb2+vox2_v0-lm": (0.17, 0.34, 0.68),
}

# The authors publish no digests; these are what public projects that pin the files have recorded.
_PINNED = {  # bytes where recorded, SHA-256
    "redimnet-b2-vox2-ptn": (20_581_530, "c18a42926878bc8ac079623fbf36f0bc8054cda1199e96fbe1a3f8e131796647"),
    "redimnet-b2-vox2-ft_lm": (
        20_582_650,
        "c9b6bb2f6747caa28a41eaf2e372d66b0d1563baef186d18f5e99abd5e71e06f",
    ),
    "redimnet-b5-vox2-ft_lm": (
        31_174_382,
        "8b0c11bbf5a3a8bb39e5c072c4192d0b694d8c447cf126d4cd3c7346a04b39c8",
    ),
    "redimnet2-b6-vb2+vox2_v0-lm": (None, "e0a7d340a92f798720d1208949aa6a6bd0cddcb0ba7d4cec33596a17a484e6a2"),
    "redimnet2-b3-vb2+vox2+cnc2_v0-lm": (
        None,
        "b64989536ef8822447d72517ad9019b870a951e85a3f176f0ed42d2a4c3d811d",
    ),
    "redimnet2-b6-vb2+vox2+cnc2_v0-lm": (
        None,
        "287365f6f485b19e65e5176554f8f7123bfa8d85185f3d2c040eab51acec9868",
    ),
}


def _redimnet(stem: str) -> ReleasedCheckpoint:
    parameters = _REDIMNET_PARAMETERS.get(stem.partition("-")[0])
    return _checkpoint("redimnet", _REDIMNET, "latest", stem, parameters, _REDIMNET_EER, _EVALUATION)


def _redimnet2(stem: str) -> ReleasedCheckpoint:
    size, _, kind = stem.rpartition("-")
    # The README gives no figures for the distilled model.
    parameters = None if kind == "dis" else _REDIMNET2_PARAMETERS.get(size)
    return _checkpoint("redimnet2", _REDIMNET2, "v1.0.0", stem, parameters, _REDIMNET2_EER, _README2)


def _checkpoint(
    family: str,
    repository: str,
    tag: str,
    stem: str,
    parameters: int | None,
    figures: Mapping[str, tuple[float, float, float]],
    source: str,
) -> ReleasedCheckpoint:
    name = f"{family}-{stem}"
    rates = figures.get(stem, (None, None, None))
    eer = MappingProxyType(dict(zip(PROTOCOLS, rates, strict=True)))
    stated = source if parameters is not None or stem in figures else "-"
    size, digest = _PINNED.get(name, (None, None))
    return ReleasedCheckpoint(name, repository, tag, f"{stem}.pt", parameters, eer, stated, size, digest)


def _all_released() -> dict[str, ReleasedCheckpoint]:
    sizes = [f"b{number}" for number in range(7)]
    first = [_redimnet(f"{size}-vox2-{kind}") for size in sizes for kind in ("ptn", "ft_lm")]
    first += [_redimnet(f"{size}-{rest}") for size in "SM" for rest in ("vb2-ptn", "vb2+vox2+cnc-ft_mix")]
    second = [_redimnet2(f"{size}-vox2-{kind}") for size in sizes for kind in ("ptn", "lm")]
    second += [_redimnet2(f"b6-vb2+vox2_v0-{kind}") for kind in ("ptn", "lm", "dis")]
    second += [_redimnet2(f"{s}-vb2+vox2+cnc2_v0-{kind}") for s in ("b3", "b6") for kind in ("ptn", "lm")]
    return {checkpoint.name: checkpoint for checkpoint in (*first, *second)}


REGISTRY: dict[str, ReleasedCheckpoint] = _all_released()
"""Every released checkpoint by its name: the family and the file's name without its ending."""
