"""Heads that are no linear map are encoders: a language model behind photos under a prompt, and a dense depth head."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands.app import app
from featcache.data.views import Dataset, Overlay, View
from featcache.encoders import EncodeOptions, encoder_spec, load_encoder
from featcache.errors import UsageError, WeightsInvalid, WeightsMissing
from featcache.extraction.extract import extract
from featcache.extraction.job import plan_job
from tests import hub
from tests.alignment_cache import store_layers

PROMPT = "Question: what is in the picture? <image> Answer:"
ENTRIES = """
[tiny-vlm]
library = "transformers"
modality = "image"
source = { folder = "vlm" }
model = "LlavaForConditionalGeneration"
blocks = "language_model.layers"
last = "output"
pooling = ["patch-mean", "last-token", "mean"]
prompt = "Question: what is in the picture? <image> Answer:"
default = "last.last-token"
dtype = "float32"
licence = "none"

[other-question]
like = "tiny-vlm"
prompt = "Is it a dog? <image> Answer:"

[no-image-token]
like = "tiny-vlm"
prompt = "Is it a dog?"

[tiny-depth]
library = "transformers"
modality = "image"
source = { folder = "depth" }
model = "DPTForDepthEstimation"
blocks = ["backbone.encoder.layer.3", "neck.fusion_stage.layers.0", "neck.fusion_stage.layers.3", "head.head.0"]
last = "block"
pooling = ["mean"]
default = "last.mean"
dtype = "float32"
licence = "none"

[depth-output]
like = "tiny-depth"
last = "output"
"""
VISION = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
PHOTOS = 40


def vlm_repo(folder: Path) -> Path:
    """LLaVA's layout: DINOv2 of four blocks, a projector of two layers, Llama of two blocks with GPT-2's tokenizer."""
    from transformers import (
        Dinov2Config,
        GPT2Tokenizer,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    hub.gpt2_repo(folder)
    tokenizer = GPT2Tokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    for name in ("model.safetensors", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    text = LlamaConfig(**hub._SMALL, vocab_size=50_258, pad_token_id=None)
    config = LlavaConfig(
        vision_config=Dinov2Config(**VISION), text_config=text, image_token_id=50_257, vision_feature_layer=-2
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    hub._write_preprocessor(folder, "CLIPImageProcessor", {"shortest_edge": 28}, {"height": 28, "width": 28})
    return folder


def depth_repo(folder: Path) -> Path:
    """DPT on DINOv2, as facebook/dpt-dinov2-small-nyu is."""
    from transformers import Dinov2Config, DPTConfig, DPTForDepthEstimation

    stages = [f"stage{number}" for number in range(1, 5)]
    backbone = Dinov2Config(**VISION, out_features=stages, reshape_hidden_states=False)
    config = DPTConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
        is_hybrid=False,
        patch_size=14,
    )
    torch.manual_seed(1)
    DPTForDepthEstimation(config).save_pretrained(folder)
    hub._write_preprocessor(folder, "BitImageProcessor", {"shortest_edge": 28}, {"height": 28, "width": 28})
    return folder


def picture(content: bytes) -> Image.Image:
    pixels = np.random.default_rng(int(content)).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((40, 32), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("task-heads")
    (home / "encoders.toml").write_text(ENTRIES)
    vlm_repo(home / "vlm")
    depth_repo(home / "depth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATCACHE_ENCODERS", str(home / "encoders.toml"))
        yield home


def loaded(home, name):
    return load_encoder(encoder_spec(name), EncodeOptions(), memo=home / "memo")


def encoded(encoder, photos=3):
    rows = [encoder.prepare(picture(str(number).encode())) for number in range(photos)]
    inputs = encoder._preprocessor.batches(rows, "cpu")[0].tensors
    return encoder.encode(rows, [*encoder.card.widths]), inputs


# -- a language model that reads photos --------------------------------------------------------------------------------


def test_layers_of_the_language_model_are_those_of_the_model_on_photo_and_prompt(home):
    from transformers import AutoTokenizer, LlavaForConditionalGeneration

    encoder = loaded(home, "tiny-vlm")
    features, inputs = encoded(encoder)
    assert list(features) == [
        f"{layer}.{how}" for layer in ("0", "1", "2", "last") for how in encoder_spec("tiny-vlm").pooling
    ]
    network = LlavaForConditionalGeneration.from_pretrained(home / "vlm", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(home / "vlm")
    before, after = (tokenizer(part).input_ids for part in PROMPT.split("<image>"))
    ids = torch.tensor([[*before, *[50_257] * 4, *after]] * 3)  # four patches of a photo
    assert (inputs["input_ids"] == ids).all()
    with torch.inference_mode():
        whole = network(input_ids=ids, pixel_values=inputs["pixel_values"], output_hidden_states=True)
        tower = network.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
        projected = network.model.multi_modal_projector(tower.hidden_states[-2][:, 1:])
    patches = slice(len(before), len(before) + 4)
    torch.testing.assert_close(features["0.patch-mean"], projected.mean(dim=1), rtol=1e-4, atol=1e-5)
    for layer, number in (("1", 1), ("last", -1)):
        hidden = whole.hidden_states[number]
        torch.testing.assert_close(
            features[f"{layer}.patch-mean"], hidden[:, patches].mean(dim=1), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(features[f"{layer}.last-token"], hidden[:, -1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features[f"{layer}.mean"], hidden.mean(dim=1), rtol=1e-4, atol=1e-5)


def test_another_question_is_another_encoder_and_only_entries_with_a_prompt_bind_one(home):
    first, second, plain = (loaded(home, name).card.binds for name in ("tiny-vlm", "other-question", "tiny-depth"))
    assert first["prompt"]["text"] == PROMPT != second["prompt"]["text"]
    assert first["prompt"]["ids"] != second["prompt"]["ids"] and first["tensors"] == second["tensors"]
    assert "prompt" not in plain


def test_a_prompt_needs_the_image_token_once_a_tokenizer_and_no_cls(home, tmp_path, monkeypatch):
    with pytest.raises(WeightsInvalid, match="holds the image token 0 times"):
        loaded(home, "no-image-token")
    path = tmp_path / "encoders.toml"
    monkeypatch.setenv("FEATCACHE_ENCODERS", str(path))
    for change, says in (
        ('pooling = ["cls"]\ndefault = "last.cls"', "has no CLS token"),
        ('modality = "text"\nmax_tokens = 9', "`prompt` belongs to"),
    ):
        path.write_text(ENTRIES + f'\n[wrong]\nlike = "tiny-vlm"\n{change}\n')
        with pytest.raises(UsageError, match=says):
            encoder_spec("wrong")
    path.write_text(ENTRIES)
    shutil.copytree(home / "vlm", tmp_path / "vlm")
    (tmp_path / "vlm" / "tokenizer.json").unlink()
    with pytest.raises(WeightsMissing, match="lacks tokenizer.json or vocab.json"):
        loaded(tmp_path, "tiny-vlm")


# -- a dense head ------------------------------------------------------------------------------------------------------


def test_layers_of_a_depth_head_are_means_over_its_maps(home):
    from transformers import DPTForDepthEstimation

    features, inputs = encoded(loaded(home, "tiny-depth"))
    network = DPTForDepthEstimation.from_pretrained(home / "depth", dtype=torch.float32).eval()
    kept: dict[str, torch.Tensor] = {}
    modules = {"2": network.neck.fusion_stage.layers[0], "3": network.neck.fusion_stage.layers[3]}
    modules["last"] = network.head.head[0]
    for name, module in modules.items():
        module.register_forward_hook(lambda _, __, output, name=name: kept.__setitem__(name, output.clone()))
    with torch.inference_mode():
        network(**inputs)
    for name, maps in kept.items():
        torch.testing.assert_close(features[f"{name}.mean"], maps.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


def test_a_class_with_a_head_says_that_it_has_no_last_hidden_state(home):
    with pytest.raises(UsageError, match='Declare last = "block"'):
        loaded(home, "depth-output")


# -- are early layers of task heads nearer to the joint? ---------------------------------------------------------------


def test_every_layer_of_a_head_is_compared_with_another_space_by_grid(home, tmp_path):
    ids = tuple(f"p{number:02}" for number in range(PHOTOS))
    images = View("images", "image", ids, ids, lambda row: str(row).encode(), picture)
    dataset = Dataset("photos", {"images": images}, Overlay(ids, ("test",) * PHOTOS), "none", "made by a test")
    cache = Cache(tmp_path / "cache")
    for name in ("tiny-vlm", "tiny-depth"):
        extract(cache, plan_job(cache, dataset, encoder_spec(name), EncodeOptions()))
    joint = np.random.default_rng(0).standard_normal((PHOTOS, 6))
    store_layers(cache, dataset, "images", "joint", {"last.mean": joint})
    words = ["grid", "photos", "joint", "tiny-vlm", "tiny-depth", "--k", "3", "--permutations", "19", "--json"]
    done = CliRunner().invoke(app, [*words, "--cache", str(cache.root)])
    assert done.exit_code == 0, done.output
    layers = {(row["encoder_y"], row["layer_y"]) for row in json.loads(done.stdout)["layers"]}
    named = {layer for encoder, layer in layers if encoder.endswith("tiny-vlm")}
    assert {"0.patch-mean", "1.last-token", "2.mean", "last.last-token"} <= named
    assert {layer for encoder, layer in layers if encoder.endswith("tiny-depth")} == {
        "0.mean",
        "1.mean",
        "2.mean",
        "3.mean",
        "last.mean",
    }
