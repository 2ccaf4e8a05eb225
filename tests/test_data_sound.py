"""Is every sound file decoded to the same bounded waveform that plain arithmetic gives, and each broken one named?"""

import io
import os
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

from featcache.data.containers import container_sound, decode_frame
from featcache.data.errors import DataInvalid, DataMissing
from featcache.data.sound import (
    RATE,
    bound_decoder,
    decode_sound,
    flag_sound,
    is_container,
    read_clip,
    sound_length,
    sound_view,
)
from tests.sounds import av, container, sound, soundfile, tone

soxr: Any = pytest.importorskip("soxr")
FSDD = Path(__file__).parents[2] / "shared" / "data" / "fsdd"
LOSSY = {"OGG": ("VORBIS", 44_100), "MP3": ("MPEG_LAYER_III", 44_100)}


def by_hand(content: bytes, seconds: float = 10.0) -> np.ndarray:
    """The waveform of a plain WAV file: scipy reads it, numpy averages, soxr resamples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of the chunk PEAK, which holds no samples
        rate, samples = wavfile.read(io.BytesIO(content))
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float64) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples / float(2 ** (8 * samples.dtype.itemsize - 1))
    samples = samples.astype(np.float32).reshape(len(samples), -1)[: int(np.ceil(seconds * rate))]
    mono = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    return mono if rate == RATE else soxr.resample(mono, rate, RATE, quality="HQ")[: round(seconds * RATE)]


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """The largest correlation of two waveforms over shifts of up to 0.1 s: codecs delay."""
    return max(
        float(np.corrcoef(one[1600 + shift : 8000 + shift], other[1600:8000])[0, 1]) for shift in range(-1600, 1600)
    )


# -- what is decoded ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(
    ("subtype", "rate"),
    [("PCM_16", 16_000), ("PCM_U8", 16_000), ("PCM_24", 44_100), ("PCM_32", 48_000), ("FLOAT", 96_000),
     ("DOUBLE", 8_000), ("PCM_16", 11_025)],
)  # fmt: skip
def test_a_wav_of_any_form_has_the_samples_that_plain_arithmetic_gives(subtype: str, rate: int, channels: int) -> None:
    content = sound(tone(0.3, rate, channels=channels), rate, subtype=subtype)
    wave = decode_sound(content)
    np.testing.assert_array_equal(wave, by_hand(content))
    assert wave.dtype == np.float32 and abs(len(wave) - 0.3 * RATE) <= 1
    assert decode_sound(content).tobytes() == wave.tobytes()


def test_flac_has_the_samples_of_the_wav_that_it_packs() -> None:
    samples = np.rint(30_000 * tone(0.5, 44_100, channels=2)).astype(np.int16)
    np.testing.assert_array_equal(decode_sound(sound(samples, 44_100, "FLAC")), by_hand(sound(samples, 44_100)))


@pytest.mark.parametrize("form", LOSSY)
def test_ogg_and_mp3_come_back_as_the_tone_that_was_packed(form: str) -> None:
    subtype, rate = LOSSY[form]
    content = sound(tone(1.0, rate, channels=2), rate, form, subtype)
    wave = decode_sound(content)
    assert len(wave) == RATE and agreement(wave, by_hand(sound(tone(1.0, rate, channels=2), rate))) > 0.999
    assert "libsndfile" in bound_decoder(content) and "libsoxr" in bound_decoder(content)


def test_libsndfile_and_ffmpeg_read_an_mp3_alike() -> None:
    subtype, rate = LOSSY["MP3"]
    content = sound(tone(1.0, rate), rate, "MP3", subtype)
    mono, other = container_sound(content, 10.0)
    assert other == rate
    wave = decode_sound(content)
    assert agreement(wave, soxr.resample(mono, rate, RATE, quality="HQ")) > 0.9999


def test_what_has_the_rate_and_no_loss_binds_no_library_and_what_has_not_binds_its_own() -> None:
    assert bound_decoder(sound()) == bound_decoder(sound(form="FLAC")) == bound_decoder(b"no sound") == ""
    assert bound_decoder(sound(rate=8_000)) == f"libsoxr {soxr.__libsoxr_version__}"
    view = sound_view("audio", ["a", "b"], ["a", "b"], [sound(), sound(rate=8_000)].__getitem__)
    assert view.decoding == {"rate": 16_000, "channels": "mean", "seconds": 10.0, "resampling": "soxr HQ"}
    other = sound_view("audio", ["a", "b"], ["a", "b"], [sound(), sound(rate=8_000)].__getitem__, seconds=5)
    assert view.hashes == other.hashes and view.root != other.root


def variable_mp3() -> tuple[bytes, bytes]:
    """An MP3 of variable rate, and the same without the frame that states its length: silence first, noise last."""
    quiet = np.repeat([0.0005, 0.4], 44_100) * np.random.default_rng(0).standard_normal(88_200)
    held = io.BytesIO()
    soundfile.write(held, quiet, 44_100, format="MP3", bitrate_mode="VARIABLE")
    content = held.getvalue()
    return content, content[content.find(content[:2], 4) :]


def test_an_mp3_without_a_stated_length_is_read_to_its_end() -> None:
    whole, bare = variable_mp3()
    with soundfile.SoundFile(io.BytesIO(bare)) as file:
        assert file.frames < 80_000, "libsndfile guesses the length, which is why FFmpeg reads it"
    assert len(decode_sound(whole)) == 2 * RATE
    for content in (bare, b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + bare):
        assert 2 * RATE <= len(decode_sound(content)) < 2.1 * RATE
        assert "libavcodec" in bound_decoder(content) and sound_length(content) is None


# -- how much of it ----------------------------------------------------------------------------------------------------


def test_a_clip_is_cut_at_the_cap_which_is_flagged_and_a_frame_of_a_codec_over_it_is_not() -> None:
    for seconds, flag in ((1.9, None), (2.0, None), (2.05, None), (2.2, "truncated"), (5.0, "truncated")):
        content = sound(tone(seconds, 44_100), 44_100)
        wave = decode_sound(content, seconds=2.0)
        assert len(wave) == round(min(seconds, 2.0) * RATE) and flag_sound(content, wave, seconds=2.0) == flag
        np.testing.assert_array_equal(wave, by_hand(content, 2.0))


def test_silence_is_flagged_whatever_its_level_and_a_whisper_is_not() -> None:
    for level, flag in ((0.0, "near_constant"), (0.0004, "near_constant"), (0.002, None)):
        content = sound(2 * level * tone(0.2), subtype="FLOAT")
        assert flag_sound(content, decode_sound(content)) == flag
    offset = sound(np.full((1600, 1), 0.7), subtype="FLOAT")
    assert flag_sound(offset, decode_sound(offset)) == "near_constant"


def test_of_a_long_recording_no_more_is_decoded_than_the_cap_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    content, frames, read = sound(tone(40.0, 8_000), 8_000), list[int](), soundfile.SoundFile.read

    def counted(file: Any, count: int = -1, **options: Any) -> Any:
        frames.append(count)
        return read(file, count, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    assert len(decode_sound(content)) == 10 * RATE and sum(frames) == 80_000


def test_a_file_beyond_the_limit_is_refused_by_its_variable_and_read_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "two_hours.wav"
    path.write_bytes(sound(tone(0.1, 44_100), 44_100))
    os.truncate(path, 1_270_080_044)  # two hours, of which the disk holds a tenth of a second
    monkeypatch.setenv("FEATCACHE_MAX_CLIP_BYTES", "100000")
    content = read_clip(path)
    assert len(content) == 100_001
    with pytest.raises(DataInvalid, match=r"more than 100,000 bytes .*\n.*export FEATCACHE_MAX_CLIP_BYTES=1600000"):
        decode_sound(content)


def test_two_hours_within_the_limit_give_their_first_seconds(tmp_path: Path) -> None:
    head = bytearray(sound(tone(12.0, 4_000), 4_000, subtype="PCM_U8"))
    size, at = 7_200 * 4_000, head.index(b"data")
    head[4:8], head[at + 4 : at + 8] = (size + 36).to_bytes(4, "little"), size.to_bytes(4, "little")
    path = tmp_path / "two_hours.wav"
    path.write_bytes(head)
    os.truncate(path, at + 8 + size)
    content = read_clip(path)
    assert sound_length(content) == 7_200
    wave = decode_sound(content)
    np.testing.assert_array_equal(wave, by_hand(sound(tone(12.0, 4_000), 4_000, subtype="PCM_U8")))
    assert flag_sound(content, wave) == "truncated"


def test_memory_does_not_grow_with_the_number_of_clips() -> None:
    contents = [sound(tone(3.0, 44_100, pitch=200 + row), 44_100, "FLAC") for row in range(3)]
    ids = [str(row) for row in range(300)]
    view = sound_view("audio", ids, ids, lambda row: contents[row % 3])

    def peak(rows: range) -> int:
        tracemalloc.start()
        for row in rows:
            view.read(row)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(range(2))
    assert peak(range(300)) < 1.2 * peak(range(10))


# -- what cannot be read -----------------------------------------------------------------------------------------------


def part(content: bytes, share: float) -> bytes:
    return content[: int(share * len(content))]


def not_finite() -> bytes:
    samples = tone(0.1)
    samples[700] = np.nan
    return sound(samples, subtype="FLOAT")


BROKEN = {
    "empty": (lambda: b"", "an empty file"),
    "dead": (lambda: b"<html>not available</html>", r"no sound file that can be read \(26 bytes\)"),
    "zeros": (lambda: bytes(4_000), "no sound file that can be read"),
    "without samples": (lambda: sound(np.zeros((0, 1))), "without samples"),
    "nan": (not_finite, "sample 700 is NaN or infinite"),
    "wav": (lambda: part(sound(), 0.5), "cut off: it states 16,000 samples and holds 7,98"),
    "wav of 24 bits": (lambda: part(sound(subtype="PCM_24"), 0.5), "cut off: it states 16,000 samples and holds 7,99"),
    "head of a wav": (lambda: sound()[:30], "no sound file that can be read"),
    "flac": (lambda: part(sound(form="FLAC"), 0.7), "damaged or cut off: "),
    "ogg": (
        lambda: part(sound(tone(4.0), form="OGG"), 0.6),
        "cut off: it ends after .* without its last page",
    ),
    "opus": (lambda: part(sound(tone(4.0), form="OGG", subtype="OPUS"), 0.6), "cut off: .* without its last page"),
    "mp3": (lambda: part(sound(tone(4.0), form="MP3"), 0.6), "cut off: it states 64,000 samples and holds"),
    "head of an mp3": (lambda: sound(form="MP3")[:200], "no whole frame"),
    "rate": (lambda: sound(rate=500), "500 samples a second; wanted from 1,000"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_read_is_refused_by_what_is_wrong_with_it(name: str) -> None:
    make, says = BROKEN[name]
    view = sound_view("audio", ["clip"], ["clip"], lambda row: make())
    with pytest.raises(DataInvalid, match=rf"audio row 'clip' \(number 0\): .*{says}"):
        view.read(0)
    assert len(view.hashes[0]) == 64, "what cannot be read has a hash all the same"


def test_a_file_that_is_cut_off_behind_the_cap_gives_what_is_kept() -> None:
    content = sound(tone(4.0, 44_100), 44_100)
    np.testing.assert_array_equal(decode_sound(part(content, 0.6), seconds=2.0), decode_sound(content, seconds=2.0))


def test_a_wav_that_was_written_as_a_stream_is_whole() -> None:
    content = bytearray(sound())
    at = content.index(b"data")
    content[at + 4 : at + 8] = b"\xff\xff\xff\xff"
    np.testing.assert_array_equal(decode_sound(bytes(content)), decode_sound(sound()))


@pytest.mark.parametrize("seconds", [0, -1, 601, float("nan")])
def test_a_cap_that_bounds_nothing_is_refused(seconds: float) -> None:
    with pytest.raises(DataInvalid, match="--seconds .*: wanted more than 0 and no more than 600"):
        sound_view("audio", ["a"], ["a"], lambda row: b"", seconds=seconds)


@pytest.mark.parametrize("package", ["soundfile", "soxr"])
def test_a_library_that_is_not_installed_is_named_with_the_command(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(DataMissing, match=rf"read by {package}, .*\n  Run: pip install 'featcache\[audio\]'"):
        decode_sound(sound(tone(0.1, 8_000), 8_000) if package == "soxr" else sound())


# -- containers --------------------------------------------------------------------------------------------------------

SUFFIXES = (".mp4", ".webm", ".mkv", ".mov")


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("containers")
    made = {suffix: container(root / f"whole{suffix}") for suffix in SUFFIXES}
    made["faststart"] = container(root / "fast.mp4", movflags="faststart")
    made["mute"], made["blind"] = container(root / "mute.mp4", audio=False), container(root / "b.m4a", video=False)
    return made


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_sound_of_a_container_is_its_tone_and_its_frames_are_where_they_are_seen(
    suffix: str, containers: dict[str, bytes]
) -> None:
    content = containers[suffix]
    wave = decode_sound(content)
    assert is_container(content) and 2 * RATE <= len(wave) < 2.1 * RATE
    assert agreement(wave, by_hand(sound(tone(2.0, 48_000, channels=2), 48_000))) > 0.99
    assert len(decode_sound(content, seconds=0.5)) == RATE // 2
    assert flag_sound(content, decode_sound(content, seconds=0.5), seconds=0.5) == "truncated"
    for place, frame in ((0.0, 0), (0.5, 10), (0.99, 19)):
        picture: Any = decode_frame(content, place)
        assert picture.mode == "RGB" and picture.size == (64, 48)
        assert abs(picture.getpixel((30, 20))[1] - 255 * frame / 20) < 16, "one frame is 13 levels"


def test_a_container_that_states_no_length_is_read_to_its_end(containers: dict[str, bytes]) -> None:
    content = containers[".webm"]
    at = content.index(b"\x44\x89\x88")  # Duration, eight bytes; as a Void element it states nothing
    content = content[:at] + b"\xec\x89" + bytes(9) + content[at + 11 :]
    assert sound_length(content) is None
    assert len(decode_sound(content)) == len(decode_sound(containers[".webm"]))
    assert abs(decode_frame(content, 0.5).getpixel((30, 20))[1] - 128) < 16  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]


@pytest.mark.parametrize("name", [*SUFFIXES, "faststart"])
@pytest.mark.parametrize("share", [0.02, 0.6])
def test_a_container_that_is_cut_off_is_refused(name: str, share: float, containers: dict[str, bytes]) -> None:
    content = part(containers[name], share)
    for read in (decode_sound, lambda content: decode_frame(content, 0.95)):
        with pytest.raises(DataInvalid, match=r"cut off|without sound|without pictures"):
            read(content)


@pytest.mark.parametrize("start", [b"v=0\nfree\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n", b"ffcoskip file a.wav"])
def test_a_list_that_poses_as_a_container_has_no_other_file_opened(start: bytes) -> None:
    assert is_container(start)
    with pytest.raises(DataInvalid, match="no container"):
        decode_sound(start + bytes(200))


def test_a_container_without_sound_or_pictures_says_so(containers: dict[str, bytes]) -> None:
    with pytest.raises(DataInvalid, match="^a container without sound$"):
        decode_sound(containers["mute"])
    with pytest.raises(DataInvalid, match="^a container without pictures$"):
        decode_frame(containers["blind"], 0.5)
    assert len(decode_sound(containers["blind"])) >= 2 * RATE


def test_a_video_of_too_many_pixels_is_refused(containers: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 3_000)
    with pytest.raises(DataInvalid, match="3072 pixels exceed the limit of 3000, refused as a decompression bomb"):
        decode_frame(containers[".mp4"], 0.5)


def test_without_pyav_its_installation_is_named(containers: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    assert av is not None
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(DataMissing, match=r"PyAV, which is not installed\n  Run: pip install 'featcache\[audio\]'"):
        decode_sound(containers[".mp4"])


# -- real recordings ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not FSDD.is_dir(), reason="the recordings are not here")
def test_real_recordings_keep_their_length_and_the_spectrum_below_their_own_rate() -> None:
    paths = sorted(FSDD.rglob("*.wav"))[::500]
    assert paths
    for path in paths:
        rate, samples = wavfile.read(path)
        wave = decode_sound(path.read_bytes())
        assert len(wave) == round(len(samples) * RATE / rate)
        power = np.abs(np.fft.rfft(wave)) ** 2
        above = np.fft.rfftfreq(len(wave), 1 / RATE) > 0.53 * rate
        assert power[above].sum() < 1e-3 * power.sum()
        kept = np.sqrt((wave.astype(np.float64) ** 2).mean()) / np.sqrt(((samples / 32_768) ** 2).mean())
        assert abs(kept - 1) < 0.05
