"""Preprocessing of audio: a mono waveform at the network's rate, of zero mean and unit variance, and its frames."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from featcache.encoders.clap import load_clap_preprocessor
from featcache.encoders.pooling import Inputs, Positions
from featcache.encoders.recordings import read_wave, wave_flag
from featcache.encoders.spec import EncoderSpec
from featcache.encoders.voice import load_voice_preprocessor
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
    convolutions: tuple[tuple[int, int], ...]  # kernel and stride of each, from samples to frames
    masked: bool  # frames see no padding: rows of unequal length may run together

    @property
    def shortest(self) -> int:
        """Samples that the convolutions need for one frame."""
        samples = 1
        for kernel, stride in reversed(self.convolutions):
            samples = (samples - 1) * stride + kernel
        return samples

    def frames(self, samples: Tensor) -> Tensor:
        """Frames of so many samples."""
        for kernel, stride in self.convolutions:
            samples = (samples - kernel) // stride + 1
        return samples

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
        """One batch of all rows, padded and masked; or one for each length, where a norm over time sees padding."""
        if self.masked:
            return [self._padded(prepared, device)]
        lengths: dict[int, list[int]] = {}
        for row, wave in enumerate(prepared):
            lengths.setdefault(len(wave), []).append(row)
        stacked = [(rows, torch.stack([self._scaled(prepared[row]) for row in rows])) for rows in lengths.values()]
        return [Inputs(rows, {"input_values": waves.to(device)}, Positions()) for rows, waves in stacked]

    def _padded(self, prepared: Sequence[Tensor], device: str) -> Inputs:
        lengths = torch.tensor([len(wave) for wave in prepared])
        waves = pad_sequence([self._scaled(wave) for wave in prepared], batch_first=True)
        real = torch.arange(waves.shape[1])[None, :] < lengths[:, None]
        frames = self.frames(lengths)
        positions = Positions(mask=(torch.arange(int(frames.max()))[None, :] < frames[:, None]).to(device))
        inputs = {"input_values": waves.to(device), "attention_mask": real.long().to(device)}
        return Inputs(list(range(len(prepared))), inputs, positions)

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
    config: Any = backbone.module.config
    convolutions = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
    return AudioPreprocessor(rate, normalize, convolutions, masked=_masks_padding(config))


def _masks_padding(config: Any) -> bool:
    """Whether frames of a recording are the same with silence behind it, which the attention does not see.

    Not with a norm over time, nor where more than a convolution of zeros stands before the first block.
    """
    norm = getattr(config, "feat_extract_norm", None)  # data2vec has none, and several convolutions of positions
    zeros_stay = not getattr(config, "conv_pos_batch_norm", False)
    # WavLM adds its positions to the attention as numbers, and torch will no longer take a mask of another type then.
    return norm == "layer" and zeros_stay and config.model_type != "wavlm"


_OF_FEATURES = {"whisper": load_whisper_preprocessor, "voice": load_voice_preprocessor, "clap": load_clap_preprocessor}
