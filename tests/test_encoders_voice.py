"""The speaker encoder: spectrograms, windows and embeddings against slow readings of what is published."""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featcache.encoders import EncodeOptions, Encoder, EncoderSpec, encoder_spec, load_encoder
from featcache.encoders.voice import amplified, mel_powers, window_starts
from featcache.encoders.voice_network import VoiceEncoder
from featcache.errors import ExtractionFailed, WeightsInvalid
from tests.test_encoders_features import close


class Published(torch.nn.Module):
    """The network as it is published: three layers in one LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = torch.nn.Linear(256, 256)
        self.similarity_weight = torch.nn.Parameter(torch.tensor([10.0]))
        self.similarity_bias = torch.nn.Parameter(torch.tensor([-5.0]))

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(mels)
        raw = torch.relu(self.linear(hidden[-1]))
        return raw / raw.norm(dim=1, keepdim=True)


def checkpoint(folder: Path, network: torch.nn.Module | None = None, **change: torch.Tensor) -> Path:
    """A file as training wrote it; returns the folder."""
    torch.manual_seed(0)
    state = {**(network or Published()).state_dict(), **change}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"step": 3, "model_state": state, "optimizer_state": {"state": {}}}, folder / "pretrained.pt")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("voice"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_encoder(encoder_spec("resemblyzer"), EncodeOptions(weights=folder), memo=folder / "memo")


def noise(samples: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, samples).astype(np.float32)


def slaney_filters() -> np.ndarray:
    """Triangles between 42 points equally spaced on Slaney's mel scale, each of unit area: [201, 40]."""

    def to_hertz(mel: float) -> float:
        return 200 * mel / 3 if mel < 15 else 1000 * math.exp(math.log(6.4) / 27 * (mel - 15))

    top = 15 + math.log(8) * 27 / math.log(6.4)  # 8 kHz
    points = [to_hertz(top * number / 41) for number in range(42)]
    filters = np.zeros((201, 40))
    for band in range(40):
        low, middle, high = points[band : band + 3]
        for place in range(201):
            hertz = place * 40
            rise, fall = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
            filters[place, band] = max(0.0, min(rise, fall)) * 2 / (high - low)
    return filters


def slow_mels(wave: np.ndarray, frames: int) -> np.ndarray:
    """Mel powers of the first frames by the Fourier sum itself."""
    padded = np.concatenate([np.zeros(200), wave, np.zeros(frames * 160)])
    hann = np.array([0.5 - 0.5 * math.cos(2 * math.pi * place / 400) for place in range(400)])
    angles = -2j * np.pi * np.outer(np.arange(400), np.arange(201)) / 400
    spectra = np.stack([(padded[160 * at : 160 * at + 400] * hann) @ np.exp(angles) for at in range(frames)])
    return np.abs(spectra) ** 2 @ slaney_filters()


def slow_starts(samples: int) -> list[int]:
    """Windows of 160 frames each 77 frames while one still begins a step before the end, the last well covered."""
    starts, frames = [0], -(-(samples + 1) // 160)
    while starts[-1] + 77 <= frames - 160 + 77:
        starts.append(starts[-1] + 77)
    return starts if len(starts) == 1 or (samples - starts[-1] * 160) / 25600 >= 0.75 else starts[:-1]


def slow_embedding(network: Published, wave: np.ndarray) -> torch.Tensor:
    wave = wave.astype(np.float64)
    decibels = 20 * math.log10(math.sqrt((wave**2).mean()))
    wave = wave * 10 ** ((-30 - decibels) / 20) if decibels < -30 else wave
    starts = slow_starts(len(wave))
    mels = slow_mels(wave, starts[-1] + 160)
    parts = torch.from_numpy(np.stack([mels[start : start + 160] for start in starts])).float()
    with torch.no_grad():
        mean = network(parts).mean(0)
    return mean / mean.norm()


# --- against what is published ----------------------------------------------------------------------------------


def test_spectrograms_are_those_of_the_fourier_sum(encoder: Encoder) -> None:
    filters = encoder._preprocessor.filters  # type: ignore[attr-defined]
    np.testing.assert_allclose(filters.numpy(), slaney_filters(), rtol=1e-5, atol=1e-9)
    wave = noise(3000)
    fast = mel_powers(torch.from_numpy(wave)[None], filters)[0].numpy()
    np.testing.assert_allclose(fast, slow_mels(wave, 19), rtol=1e-4, atol=1e-7)


def test_windows_are_those_of_the_slow_reading() -> None:
    for samples in (*range(400, 60_000, 611), 25_599, 25_600, 25_601, 36_000, 480_000):
        assert window_starts(samples) == slow_starts(samples), samples


@pytest.mark.parametrize(("samples", "level"), [(3000, 0.1), (25_600, 0.001), (40_000, 0.1), (70_001, 0.01)])
def test_embeddings_are_those_of_the_published_network(encoder: Encoder, samples: int, level: float) -> None:
    torch.manual_seed(0)
    wave = noise(samples, seed=1, level=level)
    prepared = encoder.prepare(wave)
    embedding = encoder.encode([prepared], ["last.embedding"])["last.embedding"]
    assert encoder.cost(prepared) == len(slow_starts(samples))
    close(embedding[0], slow_embedding(Published(), wave), 1e-4)
    assert embedding.norm().item() == pytest.approx(1, abs=1e-5)


def test_layers_are_means_of_frames_that_hold_sound(encoder: Encoder) -> None:
    features = encoder.encode([encoder.prepare(noise(1600))], list(encoder.card.widths))
    assert encoder.card.widths == {"0.mean": 40, "1.mean": 256, "2.mean": 256, "last.mean": 256, "last.embedding": 256}
    close(features["0.mean"][0], torch.from_numpy(slow_mels(noise(1600), 10).mean(0)), 1e-4)


def test_a_recording_has_the_same_features_alone_and_among_others(encoder: Encoder) -> None:
    rows = [encoder.prepare(noise(samples, samples)) for samples in (400, 40_000, 3000, 41_000, 90_000)]
    layers = list(encoder.card.widths)
    together = encoder.encode(rows, layers)
    for number, row in enumerate(rows):
        for layer, values in encoder.encode([row], layers).items():
            close(values[0], together[layer][number])


def test_the_operations_of_its_layers_are_counted(encoder: Encoder) -> None:
    from featcache.encoders.cost import count_flops

    layers = 160 * 2 * (1024 * (40 + 256) + 2 * 1024 * (256 + 256))
    counted = count_flops(encoder, [[encoder.prepare(noise(8000, seed)) for seed in (0, 1)]], ["last.embedding"])
    assert counted == pytest.approx(layers + 2 * 256 * 256 + 2 * 162 * 201 * 40, rel=1e-4)


def test_silent_and_cut_recordings_are_named_as_such() -> None:
    from featcache.maintenance.health import Health
    from featcache.report.terminal.health import health_lines

    lines = health_lines(Health(3, near_constant=("a",), truncated=("b", "c"), modality="audio"))
    assert lines[0].startswith("1 recording of silence, 60 dB below full scale: ")
    assert lines[1].startswith("2 recordings cut at the encoder's window, so that the rest counts for nothing: ")


# --- volume, silence, limits ------------------------------------------------------------------------------------


def test_quiet_recordings_are_amplified_and_loud_ones_left() -> None:
    quiet, loud = torch.from_numpy(noise(5000, level=1e-4)), torch.from_numpy(noise(5000))
    assert amplified(quiet).square().mean().sqrt().item() == pytest.approx(10**-1.5, rel=1e-5)
    assert amplified(loud) is loud and not amplified(torch.zeros(9)).any()


def test_silence_is_flagged_and_has_features_and_long_recordings_are_cut(encoder: Encoder) -> None:
    silence = encoder.prepare(np.zeros(2000))
    assert encoder.flag(silence) == "near_constant"
    assert all(values.isfinite().all() for values in encoder.encode([silence], list(encoder.card.widths)).values())
    long = noise(32 * 16_000)
    rows = [encoder.prepare(long), encoder.prepare(long[: 30 * 16_000])]
    features = encoder.encode(rows, ["last.embedding"])["last.embedding"]
    assert torch.equal(features[0], features[1]) and [encoder.flag(row) for row in rows] == ["truncated", None]
    with pytest.raises(ExtractionFailed, match="2 samples at 16000 Hz: at least 400 are wanted"):
        encoder.prepare(np.ones(2))


# --- the file ---------------------------------------------------------------------------------------------------


def test_every_tensor_but_those_of_the_loss_is_in_the_network(folder: Path, encoder: Encoder) -> None:
    written = torch.load(folder / "pretrained.pt", weights_only=True)["model_state"]
    state = encoder.module.state_dict()
    assert len(state) == len(written) - 2
    assert torch.equal(state["blocks.2.lstm.weight_hh_l0"], written["lstm.weight_hh_l2"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linear.weight": torch.zeros(128, 256)}, "of another shape: 1 tensors, such as projection.linear.weight"),
        ({"lstm.weight_ih_l3": torch.zeros(4, 4)}, "not of this network: 1 tensors"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    wrong = checkpoint(tmp_path / "wrong", **change)
    with pytest.raises(WeightsInvalid, match=message):
        load_encoder(encoder_spec("resemblyzer"), EncodeOptions(weights=wrong), memo=tmp_path / "memo")


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "cut") / "pretrained.pt"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(WeightsInvalid, match=r"pretrained\.pt is cut short, or cannot be read"):
        load_encoder(encoder_spec("resemblyzer"), EncodeOptions(weights=file.parent), memo=tmp_path / "memo")


def test_the_library_has_networks_by_name_alone(tmp_path: Path) -> None:
    fields = encoder_spec("resemblyzer").model_dump(exclude_defaults=True)
    with pytest.raises(ValueError, match='library "torch" has the `model` VoiceEncoder alone'):
        EncoderSpec.model_validate({**fields, "model": "os.system"})
    control = load_encoder(encoder_spec("resemblyzer"), EncodeOptions(random=True), memo=tmp_path)
    assert isinstance(control.module, VoiceEncoder) and control.card.binds["weights"] == {"random": True, "seed": 0}


@pytest.mark.skipif(find_spec("resemblyzer") is None, reason="Resemblyzer is not installed")
def test_the_packaged_encoder_is_the_one_that_its_entry_states(tmp_path: Path) -> None:
    from importlib.metadata import distribution

    encoder = load_encoder(encoder_spec("resemblyzer"), EncodeOptions(), memo=tmp_path)
    package = distribution("Resemblyzer")
    (text,) = [str(path.read_text()) for path in package.files or () if path.name == "LICENSE"]
    assert "Apache License" in text and encoder.card.provenance["licence"].startswith("Apache-2.0 (LICENSE file")
    file = next(Path(str(package.locate_file(path))) for path in package.files or () if path.name == "pretrained.pt")
    network = Published()
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["model_state"])
    wave = noise(30_000)
    close(encoder.encode([encoder.prepare(wave)], ["last.embedding"])["last.embedding"][0],
          slow_embedding(network, wave), 1e-4)  # fmt: skip
