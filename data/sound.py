"""Sound files and containers: their bytes, decoded to a mono waveform of a bounded length at one rate.

WAV, FLAC, Ogg (Vorbis, Opus) and MP3 are read by libsndfile, containers (MP4, WebM, Matroska) by `containers`, and so
is an MP3 whose first frame does not state a length, of which libsndfile would read as much as it guesses. Channels are
averaged, and what has another rate is resampled once, by soxr. A clip that is longer than the cap is cut there, and no
more of it is decoded than that.
"""

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from featcache.data.containers import BOXES, container_length, container_sound, versions
from featcache.data.errors import DataInvalid, DataMissing
from featcache.data.limits import DATA_LIMITS, data_limit
from featcache.data.options import SECONDS
from featcache.data.views import View

if TYPE_CHECKING:
    from soundfile import SoundFile

RATE = 16_000  # samples a second of every decoded clip: networks for sound and speech take it
MOST_SECONDS = 600.0
QUALITY = "HQ"  # of soxr
SILENT = 1e-3  # from the lowest sample to the highest; a clip that spans no more is silent: 66 dB below a full sine
SLACK = 0.1  # seconds over the cap that are no cut: codecs fill up their last frame
SOUND_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a"})
CONTAINER_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm"})
_RATES = (1_000, 768_000)  # samples a second that a file may state
_BLOCK = 2**20  # samples of all channels that are decoded at once
_EXACT = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF")  # formats that hold samples as they were
_UNKNOWN = 2**62  # frames that a file claims when it does not know them
_STREAMED = 0x7FFF0000  # bytes, and more, that a WAV file claims that was written as a stream
_LENGTH_MARKS = (b"Xing", b"Info", b"VBRI")  # of the frame of an MP3 that states how many follow
_INSTALL = "Run: pip install 'featcache[audio]'; then the same command again"


def decode_sound(content: bytes, *, seconds: float = SECONDS) -> Float[np.ndarray, " samples"]:
    """A sound file, or the sound of a container, to its mono waveform at `RATE`, float32; full scale is [-1, 1].

    Args:
        content: The file, of any number of channels, sample format and rate.
        seconds: What is kept of it, from its beginning.

    Raises:
        DataInvalid: If it is empty, larger than the limit "clip" of `DATA_LIMITS`, no sound, shorter than it states,
            or holds samples that are NaN or infinite.
        DataMissing: If soundfile, soxr or PyAV are not installed.

    Example:
        >>> import soundfile
        >>> stereo, buffer = np.array([[0.5, 0.0], [-1.0, 0.5]] * 400), io.BytesIO()
        >>> soundfile.write(buffer, stereo, RATE, format="WAV")
        >>> wave = decode_sound(buffer.getvalue())
        >>> wave.dtype.name, wave.shape, wave[:2].tolist()
        ('float32', (800,), [0.25, -0.25])
    """
    if not content:
        raise DataInvalid("an empty file, and no sound")
    refuse_large(content)
    if _is_for_av(content):
        mono, rate = container_sound(content, seconds)
    else:
        mono, rate = _read(content, seconds)
    if not len(mono):
        raise DataInvalid("a sound file without samples")
    if not np.isfinite(mono).all():
        raise DataInvalid(f"sample {int(np.argmin(np.isfinite(mono)))} is NaN or infinite")
    return _resampled(mono, rate)[: round(seconds * RATE)]


def is_container(content: bytes) -> bool:
    """Whether a file may hold pictures beside its sound: MP4 and its kin, Matroska, WebM."""
    return content[4:8] in BOXES or content.startswith(b"\x1aE\xdf\xa3")


def bound_decoder(content: bytes) -> str:
    """What else the content hash of a sound file binds: the libraries that its bits depend on.

    "" where it holds its samples as they were, at `RATE`. Reads the header alone; what cannot be read binds nothing.
    """
    if _is_for_av(content):
        return f"{versions()}, {_soxr_version()}"
    soundfile = _library("soundfile")
    try:
        with _opened(content) as file:
            lossy = [] if file.format in _EXACT else [f"libsndfile {soundfile.__libsndfile_version__}"]
            return ", ".join([*lossy, *([_soxr_version()] if file.samplerate != RATE else [])])
    except DataInvalid:
        return ""


def flag_sound(content: bytes, wave: Float[np.ndarray, " samples"], *, seconds: float = SECONDS) -> str | None:
    """What of a decoded clip deserves a look: "near_constant" if it is silent, "truncated" if it was cut at the cap."""
    if float(wave.max() - wave.min()) <= SILENT:
        return "near_constant"
    if len(wave) < round(seconds * RATE):
        return None
    length = sound_length(content)
    return "truncated" if length is None or length > seconds + SLACK else None


def sound_length(content: bytes) -> float | None:
    """Seconds of sound that a file states; None where it does not."""
    if _is_for_av(content):
        return container_length(content)
    with _opened(content) as file:
        return file.frames / file.samplerate if file.frames < _UNKNOWN else None


def sound_view(
    name: str,
    ids: Sequence[str],
    groups: Sequence[str],
    content: Callable[[int], bytes],
    *,
    seconds: float = SECONDS,
) -> View:
    """A view of sound files, decoded by `decode_sound`; clips that are silent or cut are flagged.

    Raises:
        DataInvalid: If so many seconds cannot be kept.
    """
    if not 0 < seconds <= MOST_SECONDS:
        raise DataInvalid(f"--seconds {seconds:g}: wanted more than 0 and no more than {MOST_SECONDS:g} of each clip")
    return View(
        name=name,
        modality="audio",
        ids=tuple(ids),
        groups=tuple(groups),
        content=content,
        decode=partial(decode_sound, seconds=seconds),
        decoding={"rate": RATE, "channels": "mean", "seconds": float(seconds), "resampling": f"soxr {QUALITY}"},
        bound=bound_decoder,
        flag=partial(flag_sound, seconds=seconds),
    )


def read_clip(path: Path) -> bytes:
    """The bytes of a sound or video file; of one that passes the limit just enough to be refused when it is decoded."""
    with path.open("rb") as file:
        return file.read(data_limit("clip") + 1)


def refuse_large(content: bytes) -> None:
    """Raises DataInvalid, with the command that raises the limit, of a file of which `read_clip` read no more."""
    most, known = data_limit("clip"), DATA_LIMITS["clip"]
    if len(content) > most:
        raise DataInvalid(
            f"more than {most:,} {known.what}, which are not read unasked\n"
            f"  Cut it into clips; or, if that is meant, run: export {known.variable}={16 * most}"
        )


def _is_for_av(content: bytes) -> bool:
    return is_container(content) or _is_mp3_without_length(content)


def _is_mp3_without_length(content: bytes) -> bool:
    at = 0
    if content.startswith(b"ID3") and len(content) > 10:  # the size of the tag, seven bits a byte
        at = 10 + sum((byte & 127) << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
    frame = content[at : at + 256]
    is_mp3 = len(frame) > 4 and frame[0] == 255 and frame[1] & 0xE6 == 0xE2  # eleven bits of synchronisation, layer III
    return is_mp3 and not any(mark in frame for mark in _LENGTH_MARKS)


# -- libsndfile --------------------------------------------------------------------------------------------------------


def _opened(content: bytes) -> "SoundFile":
    soundfile = _library("soundfile")
    try:
        file = soundfile.SoundFile(io.BytesIO(content))
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise DataInvalid(f"no sound file that can be read ({len(content):,} bytes): {_reason(error)}") from error
    if not _RATES[0] <= file.samplerate <= _RATES[1]:
        raise DataInvalid(f"{file.samplerate:,} samples a second; wanted from {_RATES[0]:,} to {_RATES[1]:,}")
    return file


def _reason(error: Exception) -> str:
    """What libsndfile says, without the object in memory that it names, and what is not so."""
    text = str(getattr(error, "error_string", error)).strip().removeprefix("Error : ")
    return text if text and not text.startswith("File does not exist") else "no whole frame"


def _read(content: bytes, seconds: float) -> tuple[Float[np.ndarray, " samples"], int]:
    """The mean of all channels at the file's own rate, as far as the cap; and the rate."""
    soundfile = _library("soundfile")
    with _opened(content) as file:
        most, rate = math.ceil(seconds * file.samplerate), file.samplerate
        stated = _stated_frames(content, file)
        wanted, blocks, count = min(stated, most), list[np.ndarray](), 0
        while count < wanted:
            frames = min(max(_BLOCK // file.channels, 1), wanted - count)
            try:
                block = file.read(frames, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise DataInvalid(f"damaged or cut off: {_reason(error)}") from error
            if not len(block):
                break
            blocks.append(block.mean(axis=1, dtype=np.float64).astype(np.float32))
            count += len(block)
    if count < wanted and stated < _UNKNOWN:
        raise DataInvalid(f"cut off: it states {stated:,} samples and holds {count:,}")
    if count < most and _lacks_last_page(content):
        raise DataInvalid(f"cut off: it ends after {count:,} samples, without its last page")
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32), rate


def _stated_frames(content: bytes, file: "SoundFile") -> int:
    """Samples of each channel that a file states; of a WAV file libsndfile counts those that are there."""
    at, width = 12, 0
    if not content.startswith(b"RIFF"):
        return file.frames
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        if content[at : at + 4] == b"fmt ":
            width = int.from_bytes(content[at + 20 : at + 22], "little")
        if content[at : at + 4] == b"data":
            there = size <= len(content) - at - 8
            return file.frames if there or not width or size >= _STREAMED else size // width
        at += 8 + size + size % 2
    return file.frames


def _lacks_last_page(content: bytes) -> bool:
    """Whether the last page of an Ogg file is not there whole, or does not end a stream, as in one that is cut off."""
    if not content.startswith(b"OggS"):
        return False
    page = content[content.rfind(b"OggS") :]
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""  # of the segments behind the head
    return not sizes or not page[5] & 4 or len(page) < 27 + len(sizes) + sum(sizes)


# -- resampling --------------------------------------------------------------------------------------------------------


def _resampled(mono: Float[np.ndarray, " samples"], rate: int) -> Float[np.ndarray, " resampled"]:
    if rate == RATE:
        return mono
    soxr = _library("soxr")
    wave: Any = soxr.resample(mono, rate, RATE, quality=QUALITY)
    if not len(wave):
        raise DataInvalid(f"{len(mono)} samples at {rate:,} a second, too few for one at {RATE:,}")
    return np.asarray(wave, np.float32)


def _soxr_version() -> str:
    soxr = _library("soxr")
    return f"libsoxr {soxr.__libsoxr_version__}"


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except (ImportError, OSError) as error:  # soundfile raises OSError where libsndfile is not there
        raise DataMissing(f"sound is read by {name}, which is not installed: {error}\n  {_INSTALL}") from None
