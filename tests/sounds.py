"""Sound files and containers that are generated: a tone in every format, small enough to make in milliseconds."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

soundfile: Any = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
av: Any = pytest.importorskip("av")


def tone(seconds: float = 1.0, rate: int = 16_000, *, channels: int = 1, pitch: float = 440.0) -> np.ndarray:
    """[frames, channels] float64, each channel half as loud as the one before."""
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 ** (1 + channel) * np.sin(2 * np.pi * pitch * time) for channel in range(channels)], 1)


def sound(
    samples: np.ndarray | None = None, rate: int = 16_000, form: str = "WAV", subtype: str | None = None
) -> bytes:
    """A file of samples; a second of a tone where none are given."""
    held = io.BytesIO()
    soundfile.write(held, tone(rate=rate) if samples is None else samples, rate, format=form, subtype=subtype)
    return held.getvalue()


def container(
    path: Path, seconds: float = 2.0, *, audio: bool = True, video: bool = True, pitch: float = 440.0, **options: str
) -> bytes:
    """MP4, WebM or Matroska, as its ending says: grey pictures that grow brighter, ten a second, and a tone."""
    webm = path.suffix == ".webm"
    with av.open(str(path), "w", options=options) as file:
        pictures = file.add_stream("libvpx" if webm else "mpeg4", rate=10) if video else None
        voice = file.add_stream("libopus" if webm else "aac", rate=48_000, layout="stereo") if audio else None
        if pictures is not None:
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        wave = tone(seconds, 48_000, channels=2, pitch=pitch).T.astype(np.float32)
        for number in range(round(10 * seconds)):
            if pictures is not None:
                level = round(255 * number / (10 * seconds))
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
                frame.pts = number
                file.mux(pictures.encode(frame))
            if voice is not None:
                part = np.ascontiguousarray(wave[:, 4_800 * number : 4_800 * (number + 1)])
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts = 48_000, 4_800 * number
                file.mux(voice.encode(frame))
        for stream in filter(None, (pictures, voice)):
            file.mux(stream.encode())
    return path.read_bytes()
