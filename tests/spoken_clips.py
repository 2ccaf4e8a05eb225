"""Spoken digits that are generated: tones in the published naming, small enough to train on in a second."""

import io
import wave
from pathlib import Path

import numpy as np

SPEAKERS = ("anna", "bo")


def wav(samples: np.ndarray, *, channels: int = 1, width: int = 2, rate: int = 8_000) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes() if width == 2 else samples.astype(np.uint8).tobytes())
    return buffer.getvalue()


def tone(digit: int, speaker: int, take: int) -> bytes:
    """A tone as high as its digit, with the overtone of its speaker, at a length of its own."""
    rng = np.random.default_rng([digit, speaker, take])
    time = np.arange(int(rng.integers(500, 900))) / 8_000
    low, overtone = 300 * (1 + digit / 4), (1.5, 2.5)[speaker]
    values = np.sin(2 * np.pi * low * time) + 0.6 * np.sin(2 * np.pi * overtone * low * time)
    return wav(6_000 * values + 200 * rng.standard_normal(len(time)))


def write_clips(root: Path) -> Path:
    """Two speakers; takes 0, 1 (test), 5 (validation) and 10 to 15 (train), in the layout of the repository."""
    (root / "recordings").mkdir()
    (root / "README.md").write_text("spoken digits")
    for digit in range(10):
        for number, speaker in enumerate(SPEAKERS):
            for take in (0, 1, 5, *range(10, 16)):
                name = f"{digit}_{speaker}_{take}.wav"
                (root / "recordings" / name).write_bytes(tone(digit, number, take))
    return root
