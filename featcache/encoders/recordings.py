"""Recordings before any network: mono waveforms of finite samples, their lengths, and what of them deserves a look."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from featcache.errors import ExtractionFailed

RATE, FFT, HOP = 16_000, 400, 160  # samples a second of a recording, of a frame's transform, and between frames
SILENT = 1e-3  # of full scale, -60 dB: a recording that never leaves its mean by more holds nothing to hear


def read_wave(item: Any, *, rate: int, shortest: int, longest: int | None) -> Tensor:
    """A waveform as a tensor: [s] float32.

    Args:
        item: Samples, at `rate`.
        rate: Samples a second.
        shortest: Samples that the network needs.
        longest: Samples that it takes; None where longer recordings are cut.

    Raises:
        ExtractionFailed: If it is not mono, not finite, too short or too long.
    """
    wave = torch.from_numpy(np.array(item, dtype=np.float32))
    if wave.ndim != 1 or not torch.isfinite(wave).all():
        raise ExtractionFailed(f"not a mono waveform of finite samples: shape {list(wave.shape)}")
    if len(wave) < shortest or (longest is not None and len(wave) > longest):
        most = "" if longest is None else f", at most {longest / rate:g} s"
        raise ExtractionFailed(f"{len(wave)} samples at {rate} Hz: at least {shortest}{most} are wanted")
    return wave


def mel_filters(mels: int) -> Tensor:
    """Mel filters of frames of `FFT` samples at `RATE`, [frequencies, mels] float32, in Slaney's scale and norm."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        num_frequency_bins=1 + FFT // 2,
        num_mel_filters=mels,
        min_frequency=0.0,
        max_frequency=RATE / 2,
        sampling_rate=RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters).float()


def wave_flag(wave: Tensor, window: int | None = None) -> str | None:
    """What of a waveform deserves a look: "near_constant" for silence, "truncated" if it is longer than the window.

    Args:
        wave: [s] samples, before any normalisation.
        window: Samples that the network sees; None for all.
    """
    if window is not None and len(wave) > window:
        return "truncated"
    return "near_constant" if (wave - wave.mean()).abs().max() < SILENT else None
