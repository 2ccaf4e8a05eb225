"""Networks of waveforms: is a recording's feature its own, whatever runs with it, and is silence flagged?"""

from pathlib import Path

import numpy as np
import pytest

from featcache.encoders import EncodeOptions, described, encoder_spec, load_encoder
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
