"""Preprocessing of audio for Whisper: log-mel spectrograms of a window, padded with silence that is not pooled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from featcache.encoders.pooling import Inputs, Positions
from featcache.encoders.recordings import FFT, HOP, RATE, mel_filters, read_wave, wave_flag
from featcache.encoders.spec import EncoderSpec
from featcache.encoders.weights import WeightFiles
from featcache.encoders.whisper_window import POSITION

if TYPE_CHECKING:
    from featcache.encoders.backbone import Backbone


@dataclass(frozen=True, eq=False)
class WhisperPreprocessor:
    """Log-mel spectrograms as Whisper was trained on them, in a window that may be shorter than its 30 s.

    A recording is padded with silence to the window, as Whisper's always are, and what lies behind the window is cut.
    Features are means over the positions where the recording is, so that they depend on no other row.
    """

    filters: Tensor  # [frequencies, mels]
    positions: int  # of the window

    def binds(self) -> dict[str, Any]:
        """As `Preprocessor`."""
        return {
            "preprocessing": {
                "features": "whisper",
                "rate": RATE,
                "mels": self.filters.shape[1],
                "window": self._window / RATE,
                "padding": "silence, not pooled",
            }
        }

    @property
    def _window(self) -> int:
        return self.positions * POSITION

    def prepare(self, item: Any) -> Tensor:
        """One waveform: [s] float32 at 16 kHz, and no more than one sample behind the window, which says it was cut.

        Raises:
            ExtractionFailed: If it is not mono, not finite, or shorter than a frame.
        """
        return read_wave(item, rate=RATE, shortest=FFT, longest=None)[: self._window + 1].clone()

    @property
    def longest(self) -> int:
        """Every row fills the window."""
        return 1

    def cost(self, prepared: Tensor) -> int:
        """1."""
        return 1

    def flag(self, prepared: Tensor) -> str | None:
        """Silence, or a recording that goes on behind the window."""
        return wave_flag(prepared, self._window)

    def batches(self, prepared: Sequence[Tensor], device: str) -> list[Inputs]:
        """One batch of all rows."""
        waves = torch.zeros(len(prepared), self._window)
        for padded, wave in zip(waves, prepared, strict=True):
            kept = wave[: self._window]
            padded[: len(kept)] = kept
        lengths = torch.tensor([min(len(wave), self._window) for wave in prepared])
        real = torch.arange(self.positions)[None, :] * POSITION < lengths[:, None]
        features = log_mel_spectrogram(waves.to(device), self.filters.to(device))
        inputs = {"input_features": features}
        return [Inputs(list(range(len(prepared))), inputs, Positions(mask=real.to(device)))]

    def sample(self) -> Tensor:
        """One second."""
        return self.prepare(np.sin(np.arange(RATE) / 10))


def log_mel_spectrogram(waves: Tensor, filters: Tensor) -> Tensor:
    """Log-mel spectrograms, of each row's own dynamic range of 80 dB.

    Args:
        waves: [b, s] samples at 16 kHz, s a multiple of 160.
        filters: [frequencies, mels].

    Returns:
        [b, mels, s / 160] float32.

    Source:
        Radford et al. 2022, arXiv:2212.04356, section 2.2; transformers' WhisperFeatureExtractor.
    """
    window = torch.hann_window(FFT, device=waves.device)
    spectra = torch.stft(waves, FFT, HOP, window=window, return_complex=True)[..., :-1]
    energies = filters.T @ spectra.abs().square()
    logarithms = energies.clamp(min=1e-10).log10()
    floored = torch.maximum(logarithms, logarithms.amax((1, 2), keepdim=True) - 8.0)
    return (floored + 4.0) / 4.0


def load_whisper_preprocessor(spec: EncoderSpec, files: WeightFiles, backbone: "Backbone") -> WhisperPreprocessor:
    """Mel filters of the network's number, and its positions."""
    config: Any = backbone.module.config
    return WhisperPreprocessor(mel_filters(config.num_mel_bins), int(config.max_source_positions))
