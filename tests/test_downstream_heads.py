"""Heads on cached layers are the published heads on the network itself; replaced features go through a ridge map."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands.app import app
from featcache.data.views import Dataset, Overlay, View
from featcache.encoders import EncodeOptions, encoder_spec, load_encoder
from featcache.errors import FeaturesNotCached, UsageError, WeightsInvalid, WeightsMissing
from featcache.extraction.extract import extract
from featcache.extraction.job import plan_job
from featcache.studies.adapters.train import Workbench, train
from featcache.studies.downstream.head_files import read_head, read_norm
from featcache.studies.downstream.head_inputs import head_inputs
from featcache.studies.downstream.heads import HeadSettings, feed_head, parse_blocks
from featcache.trainer.config import FitConfig
from featcache.trainer.defaults import Selection
from tests.alignment_cache import store_layers

PHOTOS, D, BLOCKS, CLASSES = 120, 16, 6, 7
QUICK = FitConfig(epochs=4, batch=32, width=8, k=5, lr=1e-2, permutations=39, halves=20, untrained=2)
FEED = HeadSettings(halves=20, alphas=(1e-4, 1e-2))
ENTRY = """
[tiny-dino]
like = "dinov2-small"
source = { folder = "dino" }
dtype = "float32"
"""


def picture(content: bytes) -> Image.Image:
    rng = np.random.default_rng(int(content))
    pixels = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)


def photos() -> Dataset:
    ids = tuple(f"p{number:03}" for number in range(PHOTOS))
    images = View("images", "image", ids, ids, lambda row: str(row).encode(), picture)
    captions = View("captions", "text", ids, ids, lambda row: ids[row].encode(), bytes.decode)
    splits = tuple(("train", "train", "validation", "test")[number % 4] for number in range(PHOTOS))
    labels = {"index": tuple(str(number % CLASSES) for number in range(PHOTOS))}
    overlay = Overlay(ids, splits, labels)
    return Dataset("photos", {"images": images, "captions": captions}, overlay, "none", "made by a test")


def dino(folder: Path) -> nn.Module:
    """A tiny DINOv2 whose final norm does something, in transformers' layout."""
    from transformers import Dinov2Config, Dinov2Model
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    sizes = {"hidden_size": D, "num_hidden_layers": BLOCKS, "num_attention_heads": 2}
    model = Dinov2Model(Dinov2Config(**sizes, image_size=28, patch_size=14, initializer_range=0.4)).eval()
    with torch.no_grad():
        model.layernorm.weight.uniform_(0.5, 2.0)
        model.layernorm.bias.uniform_(-1.0, 1.0)
    model.save_pretrained(folder)
    settings = {"do_resize": True, "size": {"shortest_edge": 32}, "do_center_crop": True, "resample": 3}
    settings |= {"crop_size": {"height": 28, "width": 28}, "do_rescale": True, "rescale_factor": 1 / 255}
    settings |= {"do_normalize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    settings |= {"image_processor_type": "BitImageProcessor", "do_convert_rgb": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return model


class World:
    """A cache with every layer of a tiny DINOv2, its random twin, and two encoders that see what it sees."""

    def __init__(self, home: Path) -> None:
        self.home, self.dataset, self.cache = home, photos(), Cache(home / "cache")
        self.model = dino(home / "dino")
        (home / "encoders.toml").write_text(ENTRY)
        spec = encoder_spec("tiny-dino")
        for options in (EncodeOptions(), EncodeOptions(random=True)):
            extract(self.cache, plan_job(self.cache, self.dataset, spec, options))
        encoder = load_encoder(spec, EncodeOptions(), memo=home / "memo")
        pixels = torch.stack([torch.as_tensor(encoder.prepare(picture(str(n).encode()))) for n in range(PHOTOS)])
        inputs = encoder._preprocessor.batches([*pixels], "cpu")[0].tensors
        with torch.inference_mode():
            self.states = self.model(**inputs, output_hidden_states=True).hidden_states
            self.normed = [self.model.layernorm(state) for state in self.states]
        rng = np.random.default_rng(0)
        seen = torch.cat([self.normed[-1][:, 0], self.normed[-1][:, 1:].mean(dim=1)], dim=1).double().numpy()
        for view, encoder_name, d in (("images", "vit", 40), ("captions", "lm", 36)):
            values = seen @ rng.standard_normal((2 * D, d)) + 0.05 * rng.standard_normal((PHOTOS, d))
            store_layers(self.cache, self.dataset, view, encoder_name, {"last.mean": values})

    def linear(self, inputs: torch.Tensor, outputs: int = CLASSES) -> nn.Linear:
        """A random head whose decisions on these inputs differ."""
        torch.manual_seed(1)
        head = nn.Linear(inputs.shape[1], outputs)
        with torch.no_grad():
            head.weight.normal_()
            head.weight /= inputs.std(dim=0)
            head.bias.copy_(-(inputs.mean(dim=0) @ head.weight.T))
        return head


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    home = tmp_path_factory.mktemp("heads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATCACHE_ENCODERS", str(home / "encoders.toml"))
        yield World(home)


@pytest.fixture(scope="module")
def run(world):
    bench = Workbench.load(world.cache, Selection("photos", ("vit", "lm"), None))
    return train(bench, QUICK, world.home / "run").path


def one_layer(world) -> torch.Tensor:
    last = world.normed[-1]
    return torch.cat([last[:, 0], last[:, 1:].mean(dim=1)], dim=1)


def four_layers(world) -> torch.Tensor:
    """As the published code concatenates them: four CLS, oldest first, and the mean patch of the last."""
    last = world.normed[-4:]
    return torch.cat([*(state[:, 0] for state in last), last[-1][:, 1:].mean(dim=1)], dim=1)


def saved(world, name: str, tensors) -> Path:
    path = world.home / name
    torch.save(tensors, path)
    return path


def on_cached(world, path: Path, **options) -> np.ndarray:
    head = read_head(path)
    return head.logits(head_inputs(world.cache, "photos", "tiny-dino", head, **options).values)


# -- the heads themselves, against modules on the network --------------------------------------------------------------


def test_a_one_layer_head_on_cached_layers_is_the_module_on_the_network(world):
    inputs = one_layer(world)
    head = world.linear(inputs)
    path = saved(world, "dinov2_vits14_linear_head.pth", head.state_dict())
    with torch.inference_mode():
        np.testing.assert_allclose(on_cached(world, path), head(inputs).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["solved", "transformers", "published"])
def test_a_four_layer_head_passes_each_cls_through_the_final_norm(world, norm):
    inputs = four_layers(world)
    head = world.linear(inputs)
    path = saved(world, "dinov2_vits14_linear4_head.pth", head.state_dict())
    own = {"weight": world.model.layernorm.weight, "bias": world.model.layernorm.bias}
    given = {
        "solved": None,
        "transformers": world.home / "dino",
        "published": saved(world, "vits14.pth", {f"norm.{name}": value.data for name, value in own.items()}),
    }[norm]
    with torch.inference_mode():
        np.testing.assert_allclose(on_cached(world, path, norm=given), head(inputs).numpy(), rtol=2e-3, atol=2e-3)


def test_transformers_classifier_is_read_from_its_repository(world):
    from transformers import Dinov2Config, Dinov2ForImageClassification

    config = Dinov2Config.from_pretrained(world.home / "dino", num_labels=CLASSES)
    whole = Dinov2ForImageClassification(config).eval()
    whole.dinov2.load_state_dict(world.model.state_dict())
    head = world.linear(one_layer(world))
    whole.classifier.load_state_dict(head.state_dict())
    folder = world.home / "dinov2-tiny-imagenet1k-1-layer"
    whole.save_pretrained(folder)
    with torch.inference_mode():
        np.testing.assert_allclose(on_cached(world, folder), head(one_layer(world)).numpy(), rtol=1e-4, atol=1e-4)
    assert read_head(folder).norm is not None


def test_a_depth_head_on_mean_patches_is_the_mean_of_the_head_over_patches(world):
    """As published: patches beside CLS, enlarged four times, a convolution of one pixel; four blocks, no norm."""
    blocks = (1, 3, 4, 6)
    torch.manual_seed(2)
    convolution = nn.Conv2d(8 * D, 5, 1)
    maps = []
    for block in blocks:
        state = world.states[block]
        patches = state[:, 1:].transpose(1, 2).reshape(PHOTOS, D, 2, 2)
        both = torch.cat([patches, state[:, 0, :, None, None].expand_as(patches)], dim=1)
        maps.append(nn.functional.interpolate(both, scale_factor=4, mode="bilinear", align_corners=False))
    with torch.inference_mode():
        expected = convolution(torch.cat(maps, dim=1)).mean(dim=(2, 3)).numpy()
    tensors = {f"decode_head.conv_depth.{name}": value for name, value in convolution.state_dict().items()}
    path = saved(world, "dinov2_vits14_nyu_linear4_head.pth", {"meta": {"epoch": 1}, "state_dict": tensors})
    np.testing.assert_allclose(on_cached(world, path, blocks=blocks), expected, rtol=1e-4, atol=1e-3)
    with pytest.raises(UsageError, match="--blocks"):
        on_cached(world, path)  # nobody published which of six blocks


def test_a_one_block_depth_head_reads_the_last_block_without_norm(world):
    torch.manual_seed(3)
    head, state = nn.Linear(2 * D, 5), world.states[-1]
    tensors = {"decode_head.conv_depth.weight": head.weight.data[:, :, None, None]}
    path = saved(world, "depth.pth", {"state_dict": {**tensors, "decode_head.conv_depth.bias": head.bias.data}})
    with torch.inference_mode():
        expected = head(torch.cat([state[:, 1:], state[:, :1].expand_as(state[:, 1:])], dim=2)).mean(dim=1).numpy()
    np.testing.assert_allclose(on_cached(world, path), expected, rtol=1e-4, atol=1e-3)


def test_a_segmentation_head_has_its_norm_over_the_batch_folded_in(world):
    torch.manual_seed(4)
    norm, convolution = nn.BatchNorm2d(D).eval(), nn.Conv2d(D, 9, 1)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    patches = world.normed[-1][:, 1:].transpose(1, 2).reshape(PHOTOS, D, 2, 2)
    with torch.inference_mode():
        expected = convolution(norm(patches)).mean(dim=(2, 3)).numpy()
    tensors = {f"decode_head.bn.{name}": value for name, value in norm.state_dict().items()}
    tensors |= {f"decode_head.conv_seg.{name}": value for name, value in convolution.state_dict().items()}
    path = saved(world, "dinov2_vits14_ade20k_linear_head.pth", {"state_dict": tensors})
    np.testing.assert_allclose(on_cached(world, path), expected, rtol=1e-4, atol=1e-4)


def test_a_classifier_of_a_network_without_tokens_reads_the_mean_over_places(world):
    torch.manual_seed(6)
    head = nn.Linear(40, 4)  # as resnet18's fc, in a file of the whole network
    values = torch.as_tensor(world.cache.load("photos", "vit").values)
    tensors = {"conv1.weight": torch.zeros(2, 3, 1, 1), "fc.weight": head.weight.data, "fc.bias": head.bias.data}
    read = read_head(saved(world, "network.pth", tensors))
    built = head_inputs(world.cache, "photos", "vit", read)
    assert built.recipe == "[last.mean]"
    with torch.inference_mode():
        np.testing.assert_allclose(read.logits(built.values), head(values).numpy(), rtol=1e-5, atol=1e-5)


# -- what is refused ---------------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("tensors", "error", "says"),
    [
        ({"weight": torch.zeros(3, 5 * D + 1), "bias": torch.zeros(3)}, UsageError, "wanted 2 or 5 .* times"),
        ({"weight": torch.zeros(3, 2 * D), "bias": torch.zeros(4)}, WeightsInvalid, "do not fit"),
        ({"weight": torch.full((3, 2 * D), torch.nan), "bias": torch.zeros(3)}, WeightsInvalid, "finite"),
        ({"scratch.layer1.weight": torch.zeros(3, 3)}, UsageError, "holds no linear head"),
        ({"conv_seg.weight": torch.zeros(3, 4 * D, 1, 1), "conv_seg.bias": torch.zeros(3)}, UsageError, "four blocks"),
        (
            {"decode_head.conv_seg.weight": torch.zeros(3, D), "decode_head.conv_seg.bias": torch.zeros(3)}
            | {"decode_head.convs.0.weight": torch.zeros(2, 2)},
            UsageError,
            "holds no linear head: 3 tensors",
        ),
        ({"weight": Evil()}, WeightsInvalid, "does not hold weights only"),
    ],
)
def test_a_file_that_is_no_head_of_this_backbone_is_refused(world, tensors, error, says):
    with pytest.raises(error, match=says):
        on_cached(world, saved(world, "other.pth", tensors))


def test_a_norm_of_other_weights_and_missing_files_and_layers_are_named(world, tmp_path):
    path = saved(world, "four.pth", world.linear(four_layers(world)).state_dict())
    wrong = saved(world, "wrong.pth", {"norm.weight": torch.ones(D), "norm.bias": torch.zeros(D)})
    with pytest.raises(UsageError, match="does not turn 6.cls of tiny-dino into its last.cls"):
        on_cached(world, path, norm=wrong)
    with pytest.raises(UsageError, match="holds no final norm"):
        read_norm(saved(world, "headless.pth", {"weight": torch.ones(D)}))
    with pytest.raises(WeightsMissing, match="is not there"):
        read_head(tmp_path / "none.pth")
    head = read_head(path)
    with pytest.raises(FeaturesNotCached, match="the head reads last.cls of vit"):
        head_inputs(world.cache, "photos", "vit", head)
    with pytest.raises(UsageError, match="names one array"):
        head_inputs(world.cache, "photos", "tiny-dino/last.cls", head)
    with pytest.raises(UsageError, match="--blocks 0,x"):
        parse_blocks("0,x")


# -- replaced features -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fed(world, run):
    path = saved(world, "head.pth", world.linear(one_layer(world)).state_dict())
    return feed_head(world.cache, "photos", "tiny-dino", path, [], [run], FEED)


def one(result, space, metric):
    (row,) = [row for row in result.rows if (row.space, row.metric) == (space, metric)]
    return row


def test_a_space_is_mapped_by_ridge_on_train_and_the_head_decides_of_test(world, run, fed):
    inputs = one_layer(world).double().numpy()
    head = world.linear(one_layer(world))
    weight, bias = (part.detach().double().numpy() for part in (head.weight, head.bias))
    at = {split: np.flatnonzero(np.array(world.dataset.overlay.splits) == split) for split in ("train", "validation")}
    test = np.flatnonzero(np.array(world.dataset.overlay.splits) == "test")
    x = world.cache.load("photos", "vit").values.astype(np.float64)
    own = inputs @ weight.T + bias
    best = None
    for alpha in FEED.alphas:  # the normal equations, penalty by penalty
        mean, target = x[at["train"]].mean(axis=0), inputs[at["train"]].mean(axis=0)
        z = x[at["train"]] - mean
        penalty = alpha * np.sum(z**2) / z.shape[1]
        solved = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (inputs[at["train"]] - target))
        error = np.sum(((x[at["validation"]] - mean) @ solved + target - inputs[at["validation"]]) ** 2)
        if best is None or error < best[0]:
            best = error, ((x[test] - mean) @ solved + target) @ weight.T + bias
    row = one(fed, "raw images", "head_agreement")
    assert row.value == pytest.approx(np.mean(best[1].argmax(axis=1) == own[test].argmax(axis=1)))
    explained = 1 - np.sum((best[1] - own[test]) ** 2) / np.sum((own[test] - own[at["train"]].mean(axis=0)) ** 2)
    assert one(fed, "raw images", "head_logits_r2").value == pytest.approx(explained, abs=1e-3)
    answers = np.arange(PHOTOS)[test] % CLASSES
    assert one(fed, "own features", "head_accuracy").value == pytest.approx(np.mean(own[test].argmax(1) == answers))
    five = np.argsort(-own[test], axis=1)[:, :5]
    hits = [answer in row for answer, row in zip(answers, five, strict=True)]
    assert one(fed, "own features", "head_top5_accuracy").value == pytest.approx(np.mean(hits))


def test_the_spaces_that_know_the_features_agree_and_controls_do_not(fed):
    agreement = {row.space: row.value for row in fed.rows if row.metric == "head_agreement"}
    assert agreement["raw images"] > 0.8
    # the twin with other weights sees these pictures as well as the backbone does, once it is mapped
    controls = ("shuffled joint", "random map of joint", "untrained backbone, unmapped", "most frequent decision")
    assert all(agreement[name] < agreement["raw images"] - 0.2 for name in controls)
    assert {
        "untrained backbone",
        "joint",
        "adapted images",
        "untrained joint",
        "raw captions",
        "random images",
    } <= agreement.keys()
    verdicts = {(row.whole, row.metric): row.verdict for row in fed.contrasts}
    assert verdicts["shuffled joint", "head_agreement"] == "below"
    assert {metric for _, metric in verdicts} == {"head_agreement", "head_accuracy"}
    assert fed.baseline == "raw images"


def test_without_labels_or_random_weights_that_is_said(world, run):
    path = saved(world, "head5.pth", world.linear(one_layer(world), 5).state_dict())  # the labels go to 6
    settings = replace(FEED, untrained="vit-random7")
    with pytest.raises(FeaturesNotCached, match="vit-random7"):
        feed_head(world.cache, "photos", "tiny-dino", path, [], [run], settings)
    result = feed_head(world.cache, "photos", "tiny-dino", path, ["vit"], [], FEED)
    assert any(note.startswith("no accuracy: photos has no label index that numbers") for note in result.notes)
    assert not any(row.metric.startswith("head_accuracy") for row in result.rows)
    with pytest.raises(UsageError, match="does not number the head's 5 outputs"):
        feed_head(world.cache, "photos", "tiny-dino", path, ["vit"], [], replace(FEED, label="index"))
    with pytest.raises(UsageError, match="nothing to feed the head with"):
        feed_head(world.cache, "photos", "tiny-dino", path, [], [], FEED)


def test_the_outputs_of_a_depth_head_are_said_to_be_no_metres(world):
    torch.manual_seed(5)
    tensors = {"conv_depth.weight": torch.randn(6, 2 * D, 1, 1), "conv_depth.bias": torch.zeros(6)}
    path = world.home / "depth.safetensors"
    save_file(tensors, path)
    result = feed_head(world.cache, "photos", "tiny-dino", path, ["vit"], [], FEED)
    assert any(note.startswith("Caveat") and "no depth in metres" in note for note in result.notes)


def test_the_command_prints_agreement_and_writes_every_row(world, run, tmp_path):
    path = saved(world, "head.pth", world.linear(four_layers(world)).state_dict())
    out = tmp_path / "heads.parquet"
    words = ["heads", "photos", "tiny-dino", str(path), "--run", str(run), "--halves", "20", "--out", str(out)]
    done = CliRunner().invoke(app, [*words, "--cache", str(world.cache.root)])
    assert done.exit_code == 0, done.output
    assert "norm(3.cls) ‖ norm(4.cls)" in done.output and "final norm solved from 6.cls" in done.output
    table = pl.read_parquet(out)
    assert set(table["command"]) == {"heads"} and table["head_digest"][0] == read_head(path).digest
    assert {"head_agreement", "head_logits_r2", "head_accuracy", "head_top5_accuracy"} == set(table["metric"])
    said = json.loads(CliRunner().invoke(app, [*words, "--json", "--cache", str(world.cache.root)]).stdout)
    assert said["classes"] == CLASSES and said["scores"]
