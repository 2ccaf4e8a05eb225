"""Networks of waveforms, and CLAP: is a recording's feature its own, whatever runs with it; is silence flagged?"""

from pathlib import Path

import numpy as np
import pytest
import torch

from featcache.encoders import EncodeOptions, EncoderSpec, described, encoder_spec, load_encoder
from featcache.errors import ExtractionFailed, UndescribedEncoder
from tests import families, hub
from tests.test_encoders_features import close


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_padding_and_order_change_no_recordings_features(tmp_path: Path, norm: str) -> None:
    folder = families.audio_repo(
        tmp_path / norm, "Wav2Vec2Model", "Wav2Vec2Config", do_stable_layer_norm=True, feat_extract_norm=norm
    )
    (spec,) = described(f"hf:{folder}", memo=tmp_path / "memo")
    encoder = load_encoder(spec, EncodeOptions(), memo=tmp_path / "memo")
    waves = [
        np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in (400, 9000, 719, 720, 16_000, 5000)
    ]
    prepared = [encoder.prepare(wave) for wave in waves]
    layers = list(encoder.card.widths)
    alone = [encoder.encode([row], layers) for row in prepared]
    batches = encoder._preprocessor.batches(prepared, "cpu")
    assert len(batches) == (1 if norm == "layer" else len(waves)), "only where no norm runs over time"
    for order in ([0, 1, 2, 3, 4, 5], [4, 2, 5, 0, 3, 1]):
        together = encoder.encode([prepared[row] for row in order], layers)
        for place, row in enumerate(order):
            for layer in layers:
                close(together[layer][place], alone[row][layer][0])


def test_silent_recordings_are_flagged(tmp_path: Path) -> None:
    weights = EncodeOptions(weights=hub.wav2vec2_repo(tmp_path / "wav2vec2"))
    encoder = load_encoder(encoder_spec("wav2vec2-base"), weights, memo=tmp_path / "memo")
    quiet, heard = 5e-4 * np.sin(np.arange(800)), 5e-3 * np.sin(np.arange(800))
    flags = [encoder.flag(encoder.prepare(wave)) for wave in (np.zeros(800), np.full(800, 0.5), quiet, heard)]
    assert flags == ["near_constant", "near_constant", "near_constant", None]


# --- CLAP -------------------------------------------------------------------------------------------------------


def test_clap_gets_the_spectrogram_of_the_resampled_recording_and_gives_its_embedding(tmp_path: Path) -> None:
    soxr = pytest.importorskip("soxr")
    from transformers import ClapAudioModelWithProjection, ClapFeatureExtractor

    folder = families.clap_repo(tmp_path / "clap")
    (spec,) = described(f"hf:{folder}#audio", memo=tmp_path / "memo")
    encoder = load_encoder(spec, EncodeOptions(), memo=tmp_path / "memo")
    bound = encoder.card.binds["preprocessing"]
    assert (bound["from_rate"], bound["sampling_rate"], bound["window"]) == (16_000, 48_000, 10)
    wave = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    values = ClapFeatureExtractor.from_pretrained(folder)(
        soxr.resample(wave, 16_000, 48_000), sampling_rate=48_000, return_tensors="pt"
    )
    network = ClapAudioModelWithProjection.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = network(input_features=values["input_features"].float()).audio_embeds
    close(encoder.encode([encoder.prepare(wave)], ["last.embedding"])["last.embedding"], wanted)
    long = np.random.default_rng(1).normal(0, 0.1, 170_000).astype(np.float32)
    rows = [encoder.prepare(each) for each in (long, long[:160_000], np.zeros(4000))]
    assert [encoder.flag(row) for row in rows] == ["truncated", None, "near_constant"]
    assert torch.equal(rows[0].mels, rows[1].mels), "the first ten seconds, and never a crop by chance"
    with pytest.raises(ExtractionFailed, match="2 samples at 16000 Hz"):
        encoder.prepare(np.ones(2))


def test_clap_that_draws_crops_by_chance_is_refused(tmp_path: Path) -> None:
    folder = families.clap_repo(tmp_path / "clap", fusion=True)
    with pytest.raises(UndescribedEncoder, match="draws crops of recordings by chance"):
        described(f"hf:{folder}", memo=tmp_path / "memo")


def test_a_tower_of_audio_is_refused_where_there_is_none(tmp_path: Path) -> None:
    clip, vit = hub.clip_repo(tmp_path / "clip"), hub.timm_repo(tmp_path / "resnet", "resnet18.a1_in1k", size=64)
    for id, message in (
        (f"hf:{clip}#audio", "a clip has no tower of audio"),
        (f"timm:{vit}#audio", "no encoders of audio"),
    ):
        with pytest.raises(UndescribedEncoder, match=message):
            described(id, memo=tmp_path / "memo")


def test_the_window_of_clap_is_its_own() -> None:
    fields = encoder_spec("whisper-tiny-en").model_dump(exclude_defaults=True)
    with pytest.raises(ValueError, match="`window` of CLAP"):
        EncoderSpec.model_validate({**fields, "sound": {"features": "clap", "window": 5}})
