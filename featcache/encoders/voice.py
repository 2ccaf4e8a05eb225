"""Preprocessing of audio for the speaker encoder: a least volume, mel power spectrograms, overlapping windows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from featcache.encoders.pooling import Inputs, Positions
from featcache.encoders.recordings import FFT, HOP, RATE, mel_filters, read_wave, wave_flag
from featcache.encoders.spec import EncoderSpec
from featcache.encoders.voice_network import FRAMES, MELS
from featcache.encoders.weights import WeightFiles

if TYPE_CHECKING:
    from featcache.encoders.backbone import Backbone

_STEP = round(RATE / 1.3 / HOP)  # frames between the beginnings of windows: 1.3 of them a second
_COVERED = 0.75  # of the last window, without which it is left out
_LOUDNESS = 10 ** (-30 / 20)  # root mean square of -30 dB of full scale; quieter recordings are amplified to it
_LONGEST = 30.0  # seconds, where the entry declares no window


@dataclass(frozen=True, eq=False)
class VoicePreprocessor:
    """Resemblyzer's preprocessing, without the detection of voice activity that cuts silences out.

    Windows of 1.6 s overlap by half; a recording that is shorter is padded with silence.
    """

    filters: Tensor  # [frequencies, mels]
    heard: int  # samples of a recording that are read; what lies behind is cut

    def binds(self) -> dict[str, Any]:
        """As `Preprocessor`."""
        return {
            "preprocessing": {
                "features": "voice",
                "rate": RATE,
                "mels": MELS,
                "window": self.heard / RATE,
                "loudness": "at least -30 dB",
                "parts": {"frames": FRAMES, "step": _STEP, "covered": _COVERED},
                "silences": "kept",
            }
        }

    def prepare(self, item: Any) -> Tensor:
        """One waveform: [s] float32 at 16 kHz, and no more than one sample behind what is read, which says it was cut.

        Raises:
            ExtractionFailed: If it is not mono, not finite, or shorter than a frame.
        """
        return read_wave(item, rate=RATE, shortest=FFT, longest=None)[: self.heard + 1].clone()

    @property
    def longest(self) -> int:
        """In windows."""
        return len(window_starts(self.heard))

    def cost(self, prepared: Tensor) -> int:
        """Number of windows."""
        return len(window_starts(min(len(prepared), self.heard)))

    def flag(self, prepared: Tensor) -> str | None:
        """Silence, or a recording that goes on behind what is read."""
        return wave_flag(prepared, self.heard)

    def batches(self, prepared: Sequence[Tensor], device: str) -> list[Inputs]:
        """One batch for each number of windows."""
        numbers: dict[int, list[int]] = {}
        for row, wave in enumerate(prepared):
            numbers.setdefault(self.cost(wave), []).append(row)
        return [
            self._batch(rows, windows, [prepared[row] for row in rows], device) for windows, rows in numbers.items()
        ]

    def _batch(self, rows: list[int], windows: int, waves: list[Tensor], device: str) -> Inputs:
        frames = (windows - 1) * _STEP + FRAMES
        padded = torch.zeros(len(waves), frames * HOP + FFT // 2)  # half a transform behind the last frame's centre
        for row, wave in zip(padded, waves, strict=True):
            loud = amplified(wave[: self.heard])[: len(row)]
            row[: len(loud)] = loud
        places = (torch.arange(windows)[:, None] * _STEP + torch.arange(FRAMES)).flatten()  # of each window's frames
        lengths = torch.tensor([min(len(wave), self.heard) for wave in waves])
        real = places[None, :] * HOP < lengths[:, None]
        mels = mel_powers(padded.to(device), self.filters.to(device))[:, places.to(device)]
        return Inputs(rows, {"mels": mels}, Positions(mask=real.to(device)))

    def sample(self) -> Tensor:
        """One second."""
        return self.prepare(np.sin(np.arange(RATE) / 10))


def amplified(wave: Tensor) -> Tensor:
    """A waveform of at least -30 dB of full scale, root mean square; silence stays as it is."""
    loudness = wave.double().square().mean().sqrt().item()
    return wave * (_LOUDNESS / loudness) if 0 < loudness < _LOUDNESS else wave


def window_starts(samples: int) -> list[int]:
    """Frames at which the windows of so many samples begin; at least one.

    Source:
        Resemblyzer 0.1.4, VoiceEncoder.compute_partial_slices at its default rate and coverage.
    """
    frames = math.ceil((samples + 1) / HOP)
    starts = list(range(0, max(1, frames - FRAMES + _STEP + 1), _STEP))
    covered = (samples - starts[-1] * HOP) / (FRAMES * HOP)
    return starts[:-1] if covered < _COVERED and len(starts) > 1 else starts


def mel_powers(waves: Tensor, filters: Tensor) -> Tensor:
    """Mel power spectrograms, frames centred at multiples of 160 samples.

    Args:
        waves: [b, s] samples at 16 kHz.
        filters: [frequencies, mels].

    Returns:
        [b, 1 + s // 160, mels] float32, not logarithmic.

    Source:
        librosa 0.11, feature.melspectrogram(sr=16000, n_fft=400, hop_length=160, n_mels=40).
    """
    window = torch.hann_window(FFT, device=waves.device)
    spectra = torch.stft(waves, FFT, HOP, window=window, pad_mode="constant", return_complex=True)
    return spectra.abs().square().transpose(1, 2) @ filters


def load_voice_preprocessor(spec: EncoderSpec, files: WeightFiles, backbone: "Backbone") -> VoicePreprocessor:
    """Mel filters, and the seconds that are read."""
    window = spec.sound.window if spec.sound else None
    return VoicePreprocessor(mel_filters(MELS), round((window or _LONGEST) * RATE))
