"""Preprocessing of audio: a mono waveform at the network's rate, of zero mean and unit variance."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from featcache.encoders.pooling import Inputs, Positions
from featcache.encoders.recordings import read_wave, wave_flag
from featcache.encoders.spec import EncoderSpec
from featcache.encoders.weights import WeightFiles
from featcache.encoders.whisper import load_whisper_preprocessor
from featcache.errors import WeightsInvalid

if TYPE_CHECKING:
    from featcache.encoders.backbone import Backbone
    from featcache.encoders.forward import Preprocessor

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
        return read_wave(item, rate=self.rate, shortest=self.shortest, longest=self.longest)

    @property
    def longest(self) -> int:
        """In samples."""
        return _LONGEST * self.rate

    def cost(self, prepared: Tensor) -> int:
        """Number of samples."""
        return len(prepared)

    def flag(self, prepared: Tensor) -> str | None:
        """Silence; no recording is cut."""
        return wave_flag(prepared)

    def batches(self, prepared: Sequence[Tensor], device: str) -> list[Inputs]:
        """One batch for each length: padding would leak through normalisation over time."""
        lengths: dict[int, list[int]] = {}
        for row, wave in enumerate(prepared):
            lengths.setdefault(len(wave), []).append(row)
        return [
            Inputs(
                rows,
                {"input_values": torch.stack([self._scaled(prepared[row]) for row in rows]).to(device)},
                Positions(),
            )
            for rows in lengths.values()
        ]

    def _scaled(self, wave: Tensor) -> Tensor:
        if not self.normalize:
            return wave
        return (wave - wave.mean()) / torch.sqrt(wave.var(correction=0) + 1e-7)

    def sample(self) -> Tensor:
        """One second."""
        return self.prepare(np.sin(np.arange(self.rate) / 10))


def load_audio_preprocessor(spec: EncoderSpec, files: WeightFiles, backbone: "Backbone") -> "Preprocessor":
    """What the entry says is made of a recording; waveforms are left as they are where it says nothing."""
    load = _OF_FEATURES[spec.sound.features] if spec.sound else load_waveform_preprocessor
    return load(spec, files, backbone)


def load_waveform_preprocessor(spec: EncoderSpec, files: WeightFiles, backbone: "Backbone") -> AudioPreprocessor:
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


_OF_FEATURES = {"whisper": load_whisper_preprocessor}
