"""The contenders of the decoding benchmark give the same crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.decoding import BACKENDS, CROP_SAMPLES, FORMATS, pack, run, whole_file, write_corpus


@pytest.mark.parametrize("name", FORMATS)
def test_every_way_gives_the_same_crop(tmp_path: Path, name: str) -> None:
    corpus = write_corpus(tmp_path / "files", name, 2)
    packed = pack(corpus, tmp_path / "packed")
    for position in (0.0, 0.3, 0.77):
        crop = corpus.read_crop(1, CROP_SAMPLES, position)
        assert crop.shape == (CROP_SAMPLES,)
        np.testing.assert_allclose(whole_file(corpus.path(1), position), crop, rtol=0, atol=1e-6)
        for read, formats in BACKENDS.values():
            if name in formats:
                np.testing.assert_allclose(read(corpus.path(1), position), crop, rtol=0, atol=1e-6)
        rounded = packed.read_crop(1, CROP_SAMPLES, position)
        np.testing.assert_allclose(rounded, crop, rtol=0, atol=0.51 / 32768)


def test_it_runs() -> None:
    crops, backends = run(quick=True)
    assert [row[0] for row in crops.rows] == [row[0] for row in backends.rows] == list(FORMATS)
    assert len(crops.claims) == 4
