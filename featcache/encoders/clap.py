"""Preprocessing of audio for CLAP: recordings at 16 kHz, resampled to 48 kHz, and its own feature extractor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from featcache.encoders.pooling import Inputs, Positions
from featcache.encoders.recordings import RATE, read_wave, wave_flag
from featcache.encoders.spec import EncoderSpec
from featcache.encoders.weights import WeightFiles
from featcache.errors import WeightsInvalid, WeightsMissing

if TYPE_CHECKING:
    from featcache.encoders.backbone import Backbone

_SHORTEST = 400  # samples, 25 ms
_STATED = (
    "sampling_rate",
    "feature_size",
    "fft_window_size",
    "hop_length",
    "frequency_min",
    "frequency_max",
    "padding",
)


@dataclass(frozen=True, eq=False)
class ClapRow:
    """One recording's spectrogram."""

    mels: Tensor  # [1, frames, mels]
    flag: str | None


@dataclass(frozen=True, eq=False)
class ClapPreprocessor:
    """CLAP's feature extractor, without chance: of a recording that is longer than its 10 s, the first are taken.

    Resampling adds no sound above 8 kHz, where CLAP has bands up to 14 kHz.
    """

    extractor: Any  # transformers' ClapFeatureExtractor

    def binds(self) -> dict[str, Any]:
        """As `Preprocessor`."""
        return {
            "preprocessing": {
                "features": "clap",
                "from_rate": RATE,
                "resampling": "soxr, HQ",
                "window": self._window / RATE,
                **{name: getattr(self.extractor, name) for name in _STATED},
            }
        }

    @property
    def _window(self) -> int:
        return self.extractor.nb_max_samples * RATE // self.extractor.sampling_rate

    def prepare(self, item: Any) -> ClapRow:
        """One waveform: [s] float32 samples at 16 kHz.

        Raises:
            ExtractionFailed: If it is not mono, not finite, or shorter than 25 ms.
        """
        import soxr

        wave = read_wave(item, rate=RATE, shortest=_SHORTEST, longest=None)
        resampled = soxr.resample(wave[: self._window].numpy(), RATE, self.extractor.sampling_rate, quality="HQ")
        mels = self.extractor(
            resampled[: self.extractor.nb_max_samples],
            sampling_rate=self.extractor.sampling_rate,
            truncation="rand_trunc",  # nothing is longer, and so nothing is drawn
            return_tensors="np",
        )["input_features"][0]
        return ClapRow(torch.from_numpy(mels).float(), wave_flag(wave, self._window))

    @property
    def longest(self) -> int:
        """Every row fills the window."""
        return 1

    def cost(self, prepared: ClapRow) -> int:
        """1."""
        return 1

    def flag(self, prepared: ClapRow) -> str | None:
        """Silence, or a recording that goes on behind the window."""
        return prepared.flag

    def batches(self, prepared: Sequence[ClapRow], device: str) -> list[Inputs]:
        """One batch of all rows."""
        features = torch.stack([row.mels for row in prepared]).to(device)
        return [Inputs(list(range(len(prepared))), {"input_features": features}, Positions())]

    def sample(self) -> ClapRow:
        """One second."""
        return self.prepare(np.sin(np.arange(RATE) / 10))


def load_clap_preprocessor(spec: EncoderSpec, files: WeightFiles, backbone: "Backbone") -> ClapPreprocessor:
    """The feature extractor of preprocessor_config.json.

    Raises:
        WeightsMissing: If what resamples is not installed.
        WeightsInvalid: If the file declares no such extractor.
    """
    from importlib.util import find_spec

    from transformers import ClapFeatureExtractor

    if find_spec("soxr") is None:
        raise WeightsMissing(
            f"{spec.name} takes sound at 48 kHz, and soxr, which resamples it, is not installed\n"
            "  Run: pip install 'featcache[audio]'"
        )
    path = next(file for file in files.settings if file.name == "preprocessor_config.json")
    try:
        return ClapPreprocessor(ClapFeatureExtractor.from_pretrained(path.parent, local_files_only=True))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsInvalid(f"{path} declares no extractor of CLAP: {error}") from error
