"""The script: packs, verifies, goes on; mistakes end in exit code 2 and one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.shards import HEADER_BYTES, shard_path
from scripts.pack_corpus import main
from tests.data.packing_material import plant_audio


def test_it_packs_verifies_and_says_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, folder = plant_audio(tmp_path / "source"), tmp_path / "packed"
    for _ in range(2):
        assert main([str(source), str(folder), "--shard-mib", "1", "--workers", "2", "--verify"]) == 0
        said = capsys.readouterr().out
        assert f"{folder}: 16 utterances of 4 speakers, 0.0 h in 1 shards" in said
        assert "every checksum is right" in said
        assert "random crops of 3 s, one process:" in said


def test_mistakes_end_in_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, folder = plant_audio(tmp_path / "source"), tmp_path / "packed"
    assert main([str(tmp_path / "missing"), str(folder)]) == 2
    assert main([str(source), str(folder)]) == 0
    path = shard_path(folder, 0)
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES] ^= 1
    path.write_bytes(content)
    assert main([str(source), str(folder), "--verify"]) == 2
    (source / "id0/s1/u0.wav").write_bytes(b"damaged")
    assert main([str(source), str(tmp_path / "strict")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in errors] == [True] * 3
    assert "no such folder" in errors[0]
    assert "1 of 1 shards are damaged" in errors[1]
    assert "more than the share of 0.01" in errors[2]


@pytest.mark.parametrize(
    "option", [["--workers", "0"], ["--shard-mib", "0"], ["--max-unreadable-share", "2"]]
)
def test_impossible_options_are_refused(option: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["a", "b", *option])
    assert caught.value.code == 2
