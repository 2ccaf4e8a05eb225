"""Containers of sound and pictures, MP4, WebM and Matroska: their sound, and single frames of their video, by PyAV."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from featcache.data.errors import DataInvalid, DataMissing

if TYPE_CHECKING:
    from PIL import Image

BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # that MP4 and its kin may begin with
_SLACK = 0.5  # seconds that a container may end before the length it states
_LIBRARIES = ("libavformat", "libavcodec", "libswresample", "libswscale")


def container_sound(content: bytes, seconds: float) -> tuple[Float[np.ndarray, " samples"], int]:
    """The first stream of sound, its channels averaged, at its own rate; and the rate.

    Args:
        content: The file.
        seconds: What is decoded of it, from its beginning.

    Raises:
        DataInvalid: If it cannot be read, has no sound, or ends before the length that it states.
        DataMissing: If PyAV is not installed.
    """
    with _opened(content) as container:
        if not container.streams.audio:
            raise DataInvalid("a container without sound")
        stream = container.streams.audio[0]
        resampler, blocks, count, rate, end = None, list[np.ndarray](), 0, 0, 0.0
        for packet in container.demux():
            end = max(end, _end_of(packet))
            for frame in packet.decode() if packet.stream is stream else ():
                resampler = resampler or _to_floats(frame)
                rate = resampler.rate
                for part in resampler.resample(frame):
                    blocks.append(part.to_ndarray().mean(axis=0, dtype=np.float64).astype(np.float32))
                    count += len(blocks[-1])
            if rate and count >= math.ceil(seconds * rate):
                break
        else:
            stated = _stated_length(container)
            if stated is not None and end < stated - _SLACK:
                raise DataInvalid(f"cut off: it states {stated:.2f} s and ends after {end:.2f} s")
    mono = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return mono[: math.ceil(seconds * rate)], rate


def container_length(content: bytes) -> float | None:
    """Seconds that a container states; None where it does not."""
    with _opened(content) as container:
        return _stated_length(container)


def decode_frame(content: bytes, place: float) -> "Image.Image":
    """The frame of a container's video that is seen at a place of it, as a loaded RGB picture.

    Args:
        content: The file.
        place: From 0, its beginning, to 1, its end.

    Raises:
        DataInvalid: If it cannot be read, has no video, unpacks to more pixels than Pillow's bomb limit, or ends
            before the place.
        DataMissing: If PyAV is not installed.
    """
    length = container_length(content) or _counted_length(content)
    with _opened(content) as container:
        if not container.streams.video:
            raise DataInvalid("a container without pictures")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # else a fork of this process would lack the threads
        _refuse_bomb(stream)
        start = float((stream.start_time or 0) * stream.time_base)
        target = start + place * length
        _seek(container, stream, target)
        chosen, end = None, 0.0
        for packet in container.demux():
            end = max(end, _end_of(packet))
            for frame in packet.decode() if packet.stream is stream else ():
                if chosen is not None and frame.time is not None and frame.time > target:
                    return chosen.to_image()
                chosen = frame
        if chosen is None or end < target - _SLACK:
            raise DataInvalid(f"cut off, or without pictures: no frame at {target:.2f} s of it")
        return chosen.to_image()


def versions() -> str:
    """The libraries that what is decoded depends on."""
    av = _av()
    return ", ".join(f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in _LIBRARIES)


# -- PyAV --------------------------------------------------------------------------------------------------------------


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise DataMissing(
            "containers of sound and pictures are read by PyAV, which is not installed\n"
            "  Run: pip install 'featcache[audio]'; then the same command again"
        ) from None
    return av


@contextmanager
def _opened(content: bytes) -> Iterator[Any]:
    """The container; whatever PyAV raises while it is read becomes DataInvalid.

    Its format is named, for FFmpeg would also take lists that have it open other files and addresses.
    """
    av = _av()
    form = "matroska" if content.startswith(b"\x1aE\xdf\xa3") else "mov" if content[4:8] in BOXES else "mp3"
    try:
        with av.open(io.BytesIO(content), format=form) as container:
            yield container
    except (av.FFmpegError, ValueError, EOFError, IndexError, OSError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise DataInvalid(f"damaged, cut off, or no container ({len(content):,} bytes): {text}") from error


def _to_floats(frame: Any) -> Any:
    """PyAV's converter of frames like this one to planes of float32, layout and rate as they are."""
    return _av().AudioResampler(format="fltp", layout=frame.layout, rate=frame.sample_rate)


def _end_of(packet: Any) -> float:
    """Seconds into the container at which a packet ends; 0 for the empty ones at its end."""
    if packet.pts is None or packet.time_base is None:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _stated_length(container: Any) -> float | None:
    """Seconds; None where the file states none. That of an MP3 is a guess of FFmpeg's, from its first frames."""
    if not container.duration or container.format.name == "mp3":
        return None
    return container.duration / _av().time_base


def _counted_length(content: bytes) -> float:
    """Seconds at which the last packet ends, of a container that states none; nothing is decoded."""
    with _opened(content) as container:
        return max((_end_of(packet) for packet in container.demux()), default=0.0)


def _seek(container: Any, stream: Any, target: float) -> None:
    """Goes to the last key frame before a time, where the container has an index; else stays at its beginning."""
    try:
        container.seek(int(target / stream.time_base), stream=stream)
    except (_av().FFmpegError, OSError):
        pass


def _refuse_bomb(stream: Any) -> None:
    from PIL import Image

    pixels, limit = stream.codec_context.width * stream.codec_context.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise DataInvalid(f"{pixels} pixels exceed the limit of {limit}, refused as a decompression bomb")
