from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl.audio import SAMPLE_RATE, load_decoder, num_samples, read, read_crop
from mrl.errors import AudioError

_POSITIONS = (0.0, 0.31, 0.5, 0.77, 0.999999)


def noise(num_frames: int, channels: int = 1) -> np.ndarray:
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (num_frames, channels)).astype(np.float32)
    return samples[:, 0] if channels == 1 else samples


def write(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE, subtype: str | None = None) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def encode(source: Path, target: Path, *options: str) -> Path:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("the ffmpeg command, which makes this test's file, is not installed")
    subprocess.run([ffmpeg, "-loglevel", "error", "-y", "-i", source, *options, target], check=True)
    return target


@pytest.fixture(scope="module")
def speech() -> Path:
    if "MRL_SPEECH" not in os.environ:
        pytest.skip("MRL_SPEECH, a folder of real speech, is not set")
    return Path(os.environ["MRL_SPEECH"])


def assert_crops_are_slices(path: Path, num_samples: int, tolerance: float = 0.0) -> None:
    whole = read(path)
    assert len(whole) > num_samples
    for position in _POSITIONS:
        start = int(position * (len(whole) - num_samples + 1))
        crop = read_crop(path, num_samples, position)
        assert crop.shape == (num_samples,)
        assert crop.dtype == np.float32
        np.testing.assert_allclose(crop, whole[start : start + num_samples], rtol=0, atol=tolerance)


@pytest.mark.parametrize("suffix", ["wav", "flac", "WAV", "Flac"])
def test_read_gives_the_written_samples(tmp_path: Path, suffix: str) -> None:
    samples = noise(5000)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, SAMPLE_RATE, format=suffix.upper(), subtype="PCM_16")
    result = read(path)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, samples, atol=1.0 / 32768)


def test_full_scale_sixteen_bit_stays_within_one(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.array([-32768, 32767, 16384, 0], dtype=np.int16), SAMPLE_RATE)
    np.testing.assert_array_equal(read(path), np.float32([-1.0, 32767 / 32768, 0.5, 0.0]))


def test_max_samples_reads_the_first_part(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", noise(5000))
    np.testing.assert_array_equal(read(path, max_samples=1234), read(path)[:1234])
    assert len(read(path, max_samples=9999)) == 5000


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 12_347])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_the_header_tells_how_many_samples_are_read(tmp_path: Path, suffix: str, rate: int) -> None:
    if suffix == "ogg" and rate == 12_347:
        rate = 48_000
    path = write(tmp_path / f"a.{suffix}", noise(5001, channels=2), rate)
    assert num_samples(path) == len(read(path)) == -(-5001 * SAMPLE_RATE // rate)


@pytest.mark.parametrize("suffix", ["m4a", "mp3", "opus"])
def test_lossy_files_tell_how_many_samples_are_read(tmp_path: Path, suffix: str) -> None:
    path = encode(write(tmp_path / "a.wav", noise(50_000), 44_100), tmp_path / f"a.{suffix}")
    assert num_samples(str(path)) == len(read(path)) > 16_000


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.float32([[0.5, 0.1], [-0.25, 0.75]]), subtype="FLOAT")
    np.testing.assert_allclose(read(path), [0.3, 0.25], atol=1e-7)


def test_lossy_overshoot_is_clipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.float32([0.5, 1.2, -1.5]), subtype="FLOAT")
    np.testing.assert_array_equal(read(path), np.float32([0.5, 1.0, -1.0]))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus"])
def test_crop_is_that_part_of_the_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "opus":
        soundfile.write(path, noise(40_000), SAMPLE_RATE, format="OGG", subtype="OPUS")
    else:
        write(path, noise(40_000))
    assert_crops_are_slices(path, 16_000)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
def test_resampled_crop_is_that_part_of_the_whole(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.wav", noise(2 * rate, channels=2), rate)
    assert len(read(path)) == 2 * SAMPLE_RATE
    assert_crops_are_slices(path, 7001, tolerance=1e-6)


def test_positions_reach_both_ends(tmp_path: Path) -> None:
    samples = np.arange(1, 11, dtype=np.float32) / 16
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    starts = {float(read_crop(path, 4, position)[0] * 16) for position in np.arange(0, 1, 0.01)}
    assert starts == {1, 2, 3, 4, 5, 6, 7}


def test_shorter_file_wraps_around(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.float32([0.25, 0.5, 0.75, -0.5]), subtype="FLOAT")
    np.testing.assert_array_equal(read_crop(path, 6, 0.0), np.float32([0.25, 0.5, 0.75, -0.5, 0.25, 0.5]))
    np.testing.assert_array_equal(
        read_crop(path, 10, 0.5), np.float32([0.75, -0.5, 0.25, 0.5, 0.75, -0.5, 0.25, 0.5, 0.75, -0.5])
    )


def test_crop_as_long_as_the_file_is_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(100))
    np.testing.assert_array_equal(read_crop(path, 100, 0.99), read(path))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_frames=st.integers(1, 3000),
    rate=st.sampled_from([8000, 16_000, 22_050, 44_100, 48_000, 12_347]),
    num_samples=st.integers(1, 3000),
    position=st.floats(0, 1, exclude_max=True),
)
def test_crop_always_has_its_length(
    tmp_path: Path, num_frames: int, rate: int, num_samples: int, position: float
) -> None:
    samples = 0.5 * np.cos(np.arange(num_frames, dtype=np.float32))
    path = write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    whole = read(path)
    assert len(whole) == int(np.ceil(num_frames * SAMPLE_RATE / rate))
    crop = read_crop(path, num_samples, position)
    room = len(whole) - num_samples + 1
    start = int(position * (room if room > 0 else len(whole)))
    expected = whole[(start + np.arange(num_samples)) % len(whole)]
    np.testing.assert_allclose(crop, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44_100, 2), (48_000, 6)])
def test_resampling_keeps_frequency_level_and_length(tmp_path: Path, rate: int, channels: int) -> None:
    frequency, seconds = 1234.0, 1.5
    times = np.arange(round(rate * seconds)) / rate
    tone = (0.5 * np.sin(2 * np.pi * frequency * times)).astype(np.float32)
    path = write(tmp_path / "a.wav", np.stack([tone] * channels, axis=1), rate, subtype="FLOAT")
    result = read(path)
    assert len(result) == round(SAMPLE_RATE * seconds)
    expected = 0.5 * np.sin(2 * np.pi * frequency * np.arange(len(result)) / SAMPLE_RATE)
    inner = slice(200, -200)  # the ends meet the silence around the file
    np.testing.assert_allclose(result[inner], expected[inner], atol=1e-3)


def test_resampling_removes_what_would_fold_back(tmp_path: Path) -> None:
    times = np.arange(48_000) / 48_000
    path = write(tmp_path / "a.wav", np.sin(2 * np.pi * 9000 * times).astype(np.float32), 48_000, "FLOAT")
    assert np.abs(read(path)[200:-200]).max() < 1e-3  # 9 kHz would appear as 7 kHz


@pytest.mark.parametrize("options", [(), ("-ar", "44100", "-ac", "2"), ("-movflags", "+faststart")])
def test_m4a_crop_is_that_part_of_the_whole(tmp_path: Path, options: tuple[str, ...]) -> None:
    source = write(tmp_path / "a.wav", noise(50_000))
    path = encode(source, tmp_path / "a.m4a", *options)
    assert abs(len(read(path)) - 50_000) <= 1  # neither the encoder's priming nor its padding
    assert_crops_are_slices(path, 16_000, tolerance=1e-6)


def test_m4a_starts_where_the_recording_starts(tmp_path: Path) -> None:
    times = np.arange(30_000) / SAMPLE_RATE
    chirp = (0.5 * np.sin(2 * np.pi * (300 + 400 * times) * times)).astype(np.float32)
    path = encode(write(tmp_path / "a.wav", chirp), tmp_path / "a.m4a", "-b:a", "96k")
    piece = read(path)[10_000:14_000]
    lags = range(-1200, 1200)
    agreement = [float(piece @ chirp[10_000 + lag : 14_000 + lag]) for lag in lags]
    assert abs(lags[int(np.argmax(agreement))]) <= 1


@pytest.mark.parametrize("options", [(), ("-write_xing", "0", "-q:a", "4")])
def test_mp3_crop_is_that_part_of_the_whole(tmp_path: Path, options: tuple[str, ...]) -> None:
    samples = noise(330_000)
    samples[:10_000] *= 1e-4  # at a variable bit rate, a length guessed from the beginning is far off
    path = encode(write(tmp_path / "a.wav", samples), tmp_path / "a.mp3", *options)
    assert abs(len(read(path)) - 330_000) < 4000
    assert_crops_are_slices(path, 16_000)


def test_streamed_files_state_no_length_and_are_read(tmp_path: Path) -> None:
    source = write(tmp_path / "a.wav", noise(50_000))
    for suffix in ("wav", "flac"):
        piped = tmp_path / f"piped.{suffix}"
        with piped.open("wb") as file:
            ffmpeg = shutil.which("ffmpeg")
            if ffmpeg is None:
                pytest.skip("the ffmpeg command, which makes this test's file, is not installed")
            command = [ffmpeg, "-loglevel", "error", "-i", source, "-f", suffix, "-"]
            subprocess.run(command, stdout=file, check=True)
        np.testing.assert_array_equal(read(piped), read(source))
        assert num_samples(piped) == 50_000
        assert_crops_are_slices(piped, 16_000)


def test_real_m4a_crops_are_slices(speech: Path) -> None:
    paths = sorted((speech / "train").glob("*/*/*.m4a"))[::200]
    assert len(paths) > 5
    for path in paths:
        assert_crops_are_slices(path, 16_000)


def test_real_flac_crops_are_slices(speech: Path) -> None:
    for path in sorted((speech / "val").glob("*/*/*.flac"))[::60]:
        assert_crops_are_slices(path, 16_000)


def _cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_every_failure_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder.wav"
    folder.mkdir()
    empty = tmp_path / "empty.wav"
    empty.touch()
    text = tmp_path / "text.flac"
    text.write_text("this is no audio\n" * 100)
    infinite = np.full(10, 0.1, dtype=np.float32)
    infinite[3] = np.inf
    cases = {
        tmp_path / "missing.wav": "no such file",
        tmp_path / "missing.m4a": "no such file",
        folder: "a folder, not an audio file",
        empty: r"empty \(0 bytes\)",
        text: "damaged or cut short",
        write(tmp_path / "words.aiff", noise(10)): "not an audio format that can be read",
        write(tmp_path / "none.wav", noise(0)): "it holds no samples",
        write(tmp_path / "nan.wav", np.float32([0.1, np.nan]), subtype="FLOAT"): "NaN or infinity",
        write(tmp_path / "inf.wav", infinite, subtype="FLOAT"): "NaN or infinity",
        write(tmp_path / "integers.wav", np.float32([1, 3000]), subtype="FLOAT"): "samples up to 3000",
        write(tmp_path / "silent.flac", np.zeros(10, np.float32)): "silent",
        _cut(write(tmp_path / "cut.wav", noise(9000)), 0.5): "cut short",
        _cut(write(tmp_path / "cut.flac", noise(90_000)), 0.5): "cut short",
    }
    for path, reason in cases.items():
        for attempt in (lambda path: read(path), lambda path: read_crop(path, 8000, 0.9)):
            with pytest.raises(AudioError, match=reason) as caught:
                attempt(path)
            assert str(caught.value).startswith(f"{path}: ")
            assert "\n" not in str(caught.value)


def test_a_length_that_the_header_does_not_tell_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    cases = {
        tmp_path / "missing.wav": "no such file",
        tmp_path / "empty.wav": r"empty \(0 bytes\)",
        write(tmp_path / "none.wav", noise(0)): "it holds no samples",
        _cut(write(tmp_path / "cut.wav", noise(9000)), 0.5): "cut short",
    }
    for path, reason in cases.items():
        with pytest.raises(AudioError, match=reason) as caught:
            num_samples(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_a_file_without_permission_is_said_to_be(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(10))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read any file")
    with pytest.raises(AudioError, match="no permission"):
        read(path)


@pytest.mark.parametrize("faststart", [False, True])
def test_cut_m4a_is_an_error(tmp_path: Path, faststart: bool) -> None:
    options = ("-movflags", "+faststart") if faststart else ()
    path = _cut(encode(write(tmp_path / "a.wav", noise(80_000)), tmp_path / "a.m4a", *options), 0.6)
    with pytest.raises(AudioError, match="cut short"):
        read(path)


def test_part_of_a_cut_wav_is_not_read_either(tmp_path: Path) -> None:
    path = _cut(write(tmp_path / "a.wav", noise(9000)), 0.9)
    with pytest.raises(AudioError, match="promises 18000 bytes"):
        read_crop(path, 100, 0.0)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.m4a", "a.mp3"])
def test_damaged_bytes_give_audio_or_an_audio_error(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / "source.wav", noise(20_000))
    path = tmp_path / name
    if path.suffix in {".m4a", ".mp3"}:
        encode(source, path)
    else:
        write(path, noise(20_000))
    content = path.read_bytes()
    generator = np.random.default_rng(5)
    for _ in range(15):
        damaged = bytearray(content)
        for place in generator.integers(0, min(len(damaged), generator.choice([60, 100_000])), size=8):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            samples = read_crop(path, 8000, 0.4)
        except AudioError:
            continue
        assert samples.shape == (8000,)
        assert np.abs(samples).max() <= 1


def test_ffmpeg_reads_files_whatever_they_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "a.wav", noise(30_000))
    m4a, mp3 = encode(source, tmp_path / "a.m4a"), encode(source, tmp_path / "a.mp3", "-write_xing", "0")
    (tmp_path / "12:30").mkdir()
    others = {
        os.fsdecode(b"\xff\xfe.m4a"): m4a,  # torchcodec takes UTF-8 alone
        "12:30/a.m4a": m4a,  # FFmpeg takes a colon for the end of a protocol
        "an m4a.wav": m4a,
        "an m4a.mp3": m4a,
        "an mp3.m4a": mp3,
    }
    monkeypatch.chdir(tmp_path)
    for name, original in others.items():
        Path(name).write_bytes(original.read_bytes())
        np.testing.assert_array_equal(read(Path(name)), read(original))
        assert num_samples(Path(name)) == num_samples(original)
        np.testing.assert_array_equal(read_crop(Path(name), 5000, 0.4), read_crop(original, 5000, 0.4))


def test_what_ffmpeg_cannot_read_is_said_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", noise(10))
    command = shutil.which("ffmpeg")
    if command is None:
        pytest.skip("the ffmpeg command, which makes this test's file, is not installed")
    video = ["-f", "lavfi", "-i", "testsrc=duration=0.2:size=32x32", "-f", "mp4", tmp_path / "pictures.m4a"]
    subprocess.run([command, "-loglevel", "error", *video], check=True)
    (tmp_path / "text.m4a").write_text("no audio\n" * 100)
    (tmp_path / os.fsdecode(b"\xff.m4a")).write_text("no audio\n" * 100)
    reasons = {
        "pictures.m4a": "it holds no audio$",
        "text.m4a": "damaged or cut short",
        r"\udcff.m4a": "damaged",
    }
    for name, reason in reasons.items():
        path = tmp_path / name.replace(r"\udcff", "\udcff")
        with pytest.raises(AudioError, match=reason) as caught:
            read(path)
        message = str(caught.value)
        assert message.count(str(tmp_path)) == 1
        assert message.startswith(f"{tmp_path}/{name}: ")
        assert "\n" not in message


def test_a_name_that_no_file_can_have_is_shown_escaped() -> None:
    for name, shown in {"a\0b\n.wav": r"a\x00b\n.wav", "a\ud800.m4a": r"a\ud800.m4a"}.items():
        with pytest.raises(AudioError) as caught:
            read(name)
        assert str(caught.value) == f"{shown}: no such file"


@pytest.mark.parametrize("rate", [352_800, 384_000, 705_600, 768_000, 47_999])
def test_rates_that_are_in_use_are_read(tmp_path: Path, rate: int) -> None:
    times = np.arange(rate // 4) / rate
    path = write(tmp_path / "a.wav", (0.5 * np.sin(2 * np.pi * 500 * times)).astype(np.float32), rate)
    expected = 0.5 * np.sin(2 * np.pi * 500 * np.arange(4000) / SAMPLE_RATE)
    np.testing.assert_allclose(read_crop(path, 1000, 0.5)[:900], read(path)[1500:2400], atol=1e-3)
    np.testing.assert_allclose(read(path)[200:3700], expected[200:3700], atol=2e-3)


@pytest.mark.parametrize("rate", [999, 100_003, 767_999, 768_001])
def test_a_rate_that_would_take_a_huge_filter_is_damage(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.wav", noise(1000), rate)
    for attempt in (read, num_samples, lambda path: read_crop(path, 100, 0.5)):
        with pytest.raises(AudioError, match=f"damaged: its header says {rate} samples per second"):
            attempt(path)


def test_missing_ffmpeg_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(b"some bytes")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)  # importing it raises ImportError
    with pytest.raises(AudioError, match=r"a\.m4a: .*apt install ffmpeg") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_loading_a_decoder_that_is_missing_is_no_error_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    load_decoder(Path("any.m4a"))


def test_wav_and_flac_need_no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    for name in ("a.wav", "a.flac", "a.ogg"):
        assert len(read_crop(write(tmp_path / name, noise(3000)), 1000, 0.5)) == 1000
