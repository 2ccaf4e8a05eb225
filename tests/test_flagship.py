"""Do ResNet-18, GPT-2 and DINOv2 go the whole way on Flickr30k's own layout, from repositories as the Hub lays them?

The networks are tiny or have random weights; files, layout, tokenizer, commands and arithmetic are the real ones.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from featcache import Cache
from tests import hub

ROOT = Path(__file__).parents[1]
PHOTOS = 48
WORDS = ("a man", "two dogs", "the old woman", "a child in red", "some people")
REPOS = {
    "resnet18": "timm/resnet18.a1_in1k",
    "gpt2": "openai-community/gpt2",
    "dinov2-small": "facebook/dinov2-small",
}


def caption(photo: int, place: int) -> str:
    return f"{WORDS[place].capitalize()} near number {photo}{', again' * (photo % 4)}."


def write_flickr(root: Path) -> None:
    """Flickr30k's published folder layout: photos, token file, Karpathy's JSON."""
    (root / "flickr30k-images").mkdir(parents=True)
    lines: list[str] = []
    images: list[dict[str, Any]] = []
    for photo in range(PHOTOS):
        file = f"{1000 + photo}.jpg"
        pixels = np.random.default_rng(photo).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 60)).save(root / "flickr30k-images" / file)
        texts = [caption(photo, place) for place in range(5)]
        lines += [f"{file}#{place}\t{text[:-1]} ." for place, text in enumerate(texts)]
        split = ("train", "val", "test")[photo % 3]
        images.append({"filename": file, "split": split, "sentences": [{"raw": text} for text in texts]})
    (root / "results_20130124.token").write_text("\n".join(lines) + "\n")
    (root / "dataset_flickr30k.json").write_text(json.dumps({"dataset": "flickr30k", "images": images}))


class Job:
    """A folder with the data set, a Hub cache, and a feature cache filled by the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repos = {
            "resnet18": hub.timm_repo(folder / "resnet18", "resnet18.a1_in1k", size=64),
            "gpt2": hub.gpt2_repo(folder / "gpt2"),
            "dinov2-small": hub.dinov2_repo(folder / "dinov2"),
        }
        for name, repo in REPOS.items():
            hub.into_cache(self.repos[name], folder / "hub", repo)
        write_flickr(folder / "flickr")

    def run(self, *words: str) -> str:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_HUB_CACHE": str(self.folder / "hub"),
            "HF_HUB_OFFLINE": "1",
            "FEATCACHE_HOME": str(self.folder / "cache"),
        }
        code = "import sys; sys.argv = ['featcache', *sys.argv[1:]]; from featcache.commands.app import main; main()"
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = Job(tmp_path_factory.mktemp("flagship"))
    job.run("extract", "flickr30k", *REPOS, "--root", "flickr")
    return job


def assert_equal_after_storage(stored: np.ndarray, plain: np.ndarray) -> None:
    """1e-5 before storage, one unit in the last place of float16 after."""
    assert stored.dtype == np.float16
    allowed = 1e-5 * (1 + np.abs(plain)) + np.spacing(np.abs(plain).astype(np.float16)).astype(np.float32)
    assert (np.abs(stored.astype(np.float32) - plain) <= allowed).all()


def test_resnet_features_are_those_of_a_plain_timm_forward(job: Job) -> None:
    import timm
    import torch
    from safetensors.torch import load_file

    network: Any = timm.create_model("resnet18.a1_in1k", pretrained=False)
    network.load_state_dict(load_file(job.repos["resnet18"] / "model.safetensors"))
    network.eval()
    config = {**network.pretrained_cfg, "input_size": (3, 64, 64)}
    transform: Any = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
    features = Cache(job.folder / "cache").load("flickr30k", "resnet18")
    rows = [transform(Image.open(job.folder / "flickr/flickr30k-images" / file)) for file in features.ids]
    with torch.inference_mode():
        plain = network.forward_features(torch.stack(rows)).mean((2, 3)).numpy()
    assert_equal_after_storage(features.values, plain)


def test_gpt2_features_are_those_of_a_plain_forward_of_each_caption_alone(job: Job) -> None:
    import torch
    from transformers import GPT2Model, GPT2TokenizerFast

    network = GPT2Model.from_pretrained(job.repos["gpt2"]).eval()
    tokenizer = GPT2TokenizerFast.from_pretrained(job.repos["gpt2"])
    cache = Cache(job.folder / "cache")
    stored = {layer: cache.load("flickr30k", "gpt2", layer=layer) for layer in ("0.mean", "1.mean", "last.mean")}
    ends = cache.load("flickr30k", "gpt2", layer="last.last-token")
    assert stored["0.mean"].ids.tolist()[:6] == [f"1000.jpg#{place}" for place in range(5)] + ["1001.jpg#0"]
    for row in range(0, 5 * PHOTOS, 7):
        text = caption(row // 5, row % 5)
        with torch.inference_mode():
            tokens: Any = tokenizer(text, return_tensors="pt")
            hidden = network(**tokens, output_hidden_states=True).hidden_states
        for layer, values in zip(("0.mean", "1.mean", "last.mean"), hidden, strict=True):
            assert_equal_after_storage(stored[layer].values[row], values[0].mean(0).numpy())
        assert_equal_after_storage(ends.values[row], hidden[-1][0, -1].numpy())


def test_dinov2_features_are_those_of_a_plain_transformers_forward(job: Job) -> None:
    import torch
    from transformers import AutoImageProcessor, Dinov2Model

    network = Dinov2Model.from_pretrained(job.repos["dinov2-small"]).eval()
    processor: Any = AutoImageProcessor.from_pretrained(job.repos["dinov2-small"], backend="pil")
    cache = Cache(job.folder / "cache")
    cls = cache.load("flickr30k", "dinov2-small")
    patches = cache.load("flickr30k", "dinov2-small", layer="last.patch-mean")
    assert cls.layer == "last.cls"
    for row, file in enumerate(cls.ids[:12]):
        with Image.open(job.folder / "flickr/flickr30k-images" / file) as image, torch.inference_mode():
            plain = network(**processor(image, return_tensors="pt")).last_hidden_state[0]
        assert_equal_after_storage(cls.values[row], plain[0].numpy())
        assert_equal_after_storage(patches.values[row], plain[1:].mean(0).numpy())


def test_the_commit_of_each_repository_is_recorded(job: Job) -> None:
    for name, repo in REPOS.items():
        key = json.loads(job.run("show", "flickr30k", name, "--json"))
        assert hub.COMMIT in json.dumps(key["provenance"]) and repo in json.dumps(key["provenance"])


def test_training_with_no_argument_takes_flickr30k_and_its_three_encoders(job: Job) -> None:
    output = job.run("train", "--epochs", "2", "--batch", "8")
    assert "flickr30k: resnet18/last.mean (images) + gpt2/last.mean (captions) against dinov2-small/last.cls" in output
    assert "16 test groups" in output
    assert len(list((job.folder / "runs/flickr30k/resnet18+gpt2--dinov2-small").iterdir())) == 1


def test_a_second_extraction_needs_no_weights_loaded_and_gives_every_layer_once(job: Job) -> None:
    output = job.run("extract", "flickr30k", *REPOS, "--root", "flickr")
    assert output.count("all of it cached already") == 3
    listed = json.loads(job.run("ls", "flickr30k", "--json"))
    layers = {name: {entry["layer"] for entry in listed if entry["encoder"] == name} for name in REPOS}
    assert layers["resnet18"] == {"0.mean", "1.mean", "2.mean", "3.mean", "last.mean"}, "block 4 is the last layer"
    assert {"2.mean", "last.mean", "last.last-token", "lm.bits-per-byte"} <= layers["gpt2"]
    assert {"0.cls", "2.patch-mean", "last.cls", "last.patch-mean"} <= layers["dinov2-small"]


def test_the_audit_runs_with_the_encoders_of_the_published_study_and_its_claims_are_of_these_alone(job: Job) -> None:
    more = {"resnet18-tv": "timm/resnet18.tv_in1k", "distilbert-64": "distilbert/distilbert-base-uncased"}
    hub.into_cache(
        hub.timm_repo(job.folder / "tv", "resnet18.tv_in1k", size=64), job.folder / "hub", more["resnet18-tv"]
    )
    hub.into_cache(hub.distilbert_repo(job.folder / "distil"), job.folder / "hub", more["distilbert-64"])
    job.run("extract", "flickr30k", *more, "--root", "flickr")
    small = {
        "epochs": 2,
        "k": 3,
        "width": 16,
        "drawn_validation": 0.3,
        "permutations": 39,
        "halves": 20,
        "untrained": 2,
    }
    words = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    job.run("sweep", str(ROOT / "experiments/audit.toml"), "--processes", "0", *words)
    contrasts = pl.read_parquet(job.folder / "study/audit/quick/contrasts.parquet")
    readings = contrasts.filter(pl.col("contrast").str.contains("parts?$"), pl.col("metric").str.contains("mutual_knn"))
    assert len(readings) == 2 * 4 * 2  # adapters, H1 and H2 of raw and adapted parts, own row kept or not
    job.run("ledger", str(ROOT / "experiments/claims.toml"))
    ledger = pl.read_parquet(job.folder / "study/ledger/quick/ledger.parquet").filter(experiment="audit")
    assert set(ledger["reference"]) == {"images/dinov2-small/last.cls"} and ledger["effect"].is_not_null().all()
    assert set(ledger["source"]) == {"published study"} and len(ledger) == 16
