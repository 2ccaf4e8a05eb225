"""Features computed from a view's rows without an encoder: grey levels of pixels, log-mel energies of speech."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from featcache.data.errors import DataInvalid
from featcache.data.views import View

_FLOOR = 1e-8  # added to energies of a waveform in [-1, 1], so that silence has a logarithm


@dataclass(frozen=True)
class LogMel:
    """A log-mel spectrogram, averaged over equal parts of the clip's own time.

    Args:
        bands: Triangular filters, equally spaced on the mel scale.
        parts: Of equal length that the clip is cut into, whatever its length.
        low: Lower edge of the first band, Hz.
        high: Upper edge of the last band, Hz.
        window: Of a frame, seconds; a Hann window.
        hop: From frame to frame, seconds.
    """

    bands: int = 32
    parts: int = 8
    low: float = 0.0
    high: float = 4_000.0
    window: float = 0.025
    hop: float = 0.01

    def __post_init__(self) -> None:
        if min(self.bands, self.parts) < 1 or not 0 <= self.low < self.high or not 0 < self.hop <= self.window:
            raise DataInvalid(
                f"{self}: wanted 1 or more bands and parts, low below high from 0 Hz on, and 0 < hop <= window"
            )

    def to_dict(self) -> Mapping[str, Any]:
        """The settings by name."""
        return asdict(self)


def grey_pixels(view: View) -> Float[np.ndarray, "n pixels"]:
    """Grey levels of every picture, row by row from its top, 0 black and 1 white.

    Raises:
        DataInvalid: If the view shows no images, or one has another size than the first; names the row.
    """
    if view.modality != "image":
        raise DataInvalid(f"view {view.name!r} holds {view.modality}, which has no pixels")
    levels: list[np.ndarray] = []
    for row in range(len(view)):
        levels.append(np.asarray(view.read(row).convert("L"), np.float32) / 255)
        if levels[-1].shape != levels[0].shape:
            raise DataInvalid(
                f"{view.name} row {view.ids[row]!r} (number {row}) has {levels[-1].shape} pixels, and the first "
                f"{levels[0].shape}: raw pixels are compared only among pictures of one size"
            )
    return np.stack(levels).reshape(len(view), -1)


def log_mel_energies(view: View, settings: LogMel | None = None) -> Float[np.ndarray, "n parts*bands"]:
    """`log_mel` of every clip of a view whose decoding states the rate of its waveforms.

    Raises:
        DataInvalid: If the view holds no audio, or a clip cannot be read; names the row.
    """
    if view.modality != "audio" or "rate" not in view.decoding:
        raise DataInvalid(f"view {view.name!r} holds {view.modality}; wanted audio whose decoding states its rate")
    rate = int(view.decoding["rate"])
    return np.stack([log_mel(view.read(row), rate, settings) for row in range(len(view))])


def log_mel(
    wave: Float[np.ndarray, " samples"], rate: int, settings: LogMel | None = None
) -> Float[np.ndarray, " parts*bands"]:
    """Log-mel energies of a waveform, averaged over equal parts of its time.

    Clips of every length have the same number of features, and a word said slowly has about those of the same word said
    fast.

    Args:
        wave: Mono, in [-1, 1]; one shorter than a window is padded with silence.
        rate: Samples a second.
        settings: None for the defaults.

    Returns:
        Natural logarithms, float32: the bands of the first part from low to high, then those of the second.

    Raises:
        DataInvalid: If the last band lies above half the rate.

    Example:
        >>> tone = np.sin(2 * np.pi * 1000 * np.arange(8_000) / 8_000).astype(np.float32)
        >>> energies = log_mel(tone, 8_000, LogMel(bands=8, parts=2)).reshape(2, 8)
        >>> energies.argmax(axis=1).tolist()
        [3, 3]

    Source:
        Davis and Mermelstein 1980, IEEE Transactions on Acoustics, Speech, and Signal Processing 28(4).
    """
    chosen = settings or LogMel()
    if chosen.high > rate / 2:
        raise DataInvalid(f"mel bands up to {chosen.high:g} Hz of a waveform at {rate} Hz, which holds {rate / 2:g} Hz")
    length, hop = round(chosen.window * rate), round(chosen.hop * rate)
    padded = np.pad(wave.astype(np.float64), (0, max(0, length - len(wave))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]
    filters = _filters(chosen, rate, 2 ** (length - 1).bit_length())
    size = 2 * (filters.shape[1] - 1)
    power = np.abs(np.fft.rfft(frames * _hann(length), size)) ** 2
    energies = np.log(power @ filters.T + _FLOOR)
    return _mean_of_parts(energies, chosen.parts).astype(np.float32).ravel()


def _mean_of_parts(frames: Float[np.ndarray, "frames bands"], parts: int) -> Float[np.ndarray, "parts bands"]:
    """Means over equal parts of the frames; a frame on a border counts on both sides by the share of it there."""
    sums = np.vstack([np.zeros(frames.shape[1]), frames.cumsum(axis=0)])
    borders = np.linspace(0, len(frames), parts + 1)
    below = np.minimum(borders.astype(int), len(frames) - 1)
    at_borders = sums[below] + (borders - below)[:, None] * frames[below]
    return np.diff(at_borders, axis=0) * (parts / len(frames))


@cache
def _hann(length: int) -> Float[np.ndarray, " length"]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


@cache
def _filters(settings: LogMel, rate: int, size: int) -> Float[np.ndarray, "bands frequencies"]:
    """Triangles with peaks of 1 and feet at the neighbours' peaks, over the frequencies of a transform of `size`."""
    low, high = 2595 * np.log10(1 + np.array([settings.low, settings.high]) / 700)
    peaks = 700 * (10 ** (np.linspace(low, high, settings.bands + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    rising = (frequencies - peaks[:-2, None]) / np.diff(peaks)[:-1, None]
    falling = (peaks[2:, None] - frequencies) / np.diff(peaks)[1:, None]
    return np.clip(np.minimum(rising, falling), 0, None)
