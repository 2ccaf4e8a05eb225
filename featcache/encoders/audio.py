"""Preprocessing of audio: a mono waveform at the network's rate, of zero mean and unit variance."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from featcache.encoders.pooling import Inputs, Positions
from featcache.encoders.spec import EncoderSpec
from featcache.encoders.weights import WeightFiles
from featcache.errors import ExtractionFailed, WeightsInvalid

if TYPE_CHECKING:
    from featcache.encoders.backbone import Backbone

_LONGEST = 30  # seconds; attention grows with the square


@dataclass(frozen=True)
class AudioPreprocessor:
    """Settings of a waveform encoder, applied."""

    rate: int  # samples a second that the network was trained on; waveforms must have it already
    normalize: bool  # each waveform to zero mean and unit variance
    shortest: int  # samples that the convolutions need for one frame

    def binds(self) -> dict[str, Any]:
        """As `Preprocessor`."""
        return {"preprocessing": {"rate": self.rate, "normalize": self.normalize, "padding": "none"}}

    def prepare(self, item: Any) -> Tensor:
        """One waveform: [s] float32 samples, at `rate`.

        Raises:
            ExtractionFailed: If it is not mono, not finite, too short for one frame, or longer than 30 s.
        """
        wave = torch.from_numpy(np.array(item, dtype=np.float32))
        if wave.ndim != 1 or not torch.isfinite(wave).all():
            raise ExtractionFailed(f"not a mono waveform of finite samples: shape {list(wave.shape)}")
        if not self.shortest <= len(wave) <= _LONGEST * self.rate:
            raise ExtractionFailed(
                f"{len(wave)} samples at {self.rate} Hz: at least {self.shortest}, at most {_LONGEST} s are wanted"
            )
        if self.normalize:
            wave = (wave - wave.mean()) / torch.sqrt(wave.var(correction=0) + 1e-7)
        return wave

    @property
    def longest(self) -> int:
        """In samples."""
        return _LONGEST * self.rate

    def cost(self, prepared: Tensor) -> int:
        """Number of samples."""
        return len(prepared)

    def flag(self, prepared: Tensor) -> str | None:
        """Nothing: no recording is cut, and silent ones have equal features."""
        return None

    def batches(self, prepared: Sequence[Tensor], device: str) -> list[Inputs]:
        """One batch for each length: padding would leak through normalisation over time."""
        lengths: dict[int, list[int]] = {}
        for row, wave in enumerate(prepared):
            lengths.setdefault(len(wave), []).append(row)
        return [
            Inputs(rows, {"input_values": torch.stack([prepared[row] for row in rows]).to(device)}, Positions())
            for rows in lengths.values()
        ]

    def sample(self) -> Tensor:
        """One second."""
        return self.prepare(np.sin(np.arange(self.rate) / 10))


def load_audio_preprocessor(spec: EncoderSpec, files: WeightFiles, backbone: "Backbone") -> AudioPreprocessor:
    """Rate and normalisation from preprocessor_config.json; WeightsInvalid if it does not state them."""
    path = next(file for file in files.settings if file.name == "preprocessor_config.json")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        rate, normalize = int(settings["sampling_rate"]), bool(settings["do_normalize"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsInvalid(f"{path} does not state sampling_rate and do_normalize: {error!r}") from error
    shortest = 1
    config: Any = backbone.module.config
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        shortest = (shortest - 1) * stride + kernel
    return AudioPreprocessor(rate, normalize, shortest)
