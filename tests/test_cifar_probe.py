"""From CIFAR's binary files to a probe, and to zero-shot by the prompts of CLIP's other tower, by commands alone."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands.app import app
from featcache.data import cifar
from featcache.encoders.spec import encoder_spec, packaged_specs
from tests.cifar_files import contents, unpacked
from tests.hub import clip_repo


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """The cache of both towers over small archives, and the table of the probe."""
    folder = tmp_path_factory.mktemp("cifar")
    with pytest.MonkeyPatch.context() as patch:
        small = dataclasses.replace(cifar.CIFAR10, rows=(30, 45), validation=30)
        patch.setattr(cifar, "CIFAR10", small)
        patch.setenv("FEATCACHE_ENCODERS", str(folder / "encoders.toml"))
        root, cache, table = (
            unpacked(folder / "files", "cifar10", contents("cifar10", coloured=True)),
            folder / "cache",
            folder / "probe.parquet",
        )
        clip_repo(folder / "clip", projected=16)
        run("encoders", "add", f"hf:{folder / 'clip'}", "--name", "clip")
        where = ("--cache", str(cache))
        run("extract", "cifar10", "clip", "clip-text", "--root", str(root), *where)
        output = run(
            "probe", "cifar10", "clip/last.embedding", "clip/auto", "--labels", "class", "--shots", "1", "--k", "5",
            "--prompts", "prompts/clip-text/last.embedding", "--out", str(table), *where,
        )  # fmt: skip
        yield Cache(cache), pl.read_parquet(table), output


def value(table: pl.DataFrame, metric: str, space: str = "clip/last.embedding") -> float:
    (found,) = table.filter(metric=metric, space=space)["value"]
    return found


def parts(cache: Cache):
    features = cache.load("cifar10", "clip/last.embedding")
    labels, splits = features.labels["class"], features.splits
    return {
        split: (features.values[splits == split], labels[splits == split]) for split in ("train", "validation", "test")
    }


def test_ridge_and_neighbours_are_scikit_learns(probed) -> None:
    linear, near = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.neighbors")
    cache, table, _ = probed
    (x, y), _, (test, true) = parts(cache).values()
    assert len(y) == 120 and len(true) == 45
    convention = table.filter(metric="ridge_accuracy", space="clip/last.embedding")["convention"][0]
    alpha = float(convention.partition("alpha ")[2].partition(")")[0])
    assert value(table, "ridge_accuracy") == np.mean(
        linear.RidgeClassifier(alpha=alpha).fit(x, y).predict(test) == true
    )
    votes = near.KNeighborsClassifier(5, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07))
    assert value(table, "knn_accuracy") == np.mean(votes.fit(x, y).predict(test) == true)
    assert value(table, "ridge_accuracy") > 0.6  # the colours are seen


def test_zero_shot_of_the_two_towers_is_that_of_a_slow_loop(probed) -> None:
    cache, table, output = probed
    prompts, (images, true) = cache.load("cifar10", "prompts/clip-text/last.embedding"), parts(cache)["test"]
    assert len(prompts) == 3 * 18
    unit = lambda row: row / np.linalg.norm(row)  # noqa: E731
    classes = sorted(set(true))
    vectors = []
    for name in classes:
        vectors.append(
            np.mean(
                [unit(row) for row, group in zip(prompts.values, prompts.groups, strict=True) if group == name], axis=0
            )
        )
    hits = [
        classes[int(np.argmax([unit(row) @ unit(vector) for vector in vectors]))] == own
        for row, own in zip(images, true, strict=True)
    ]
    assert value(table, "zero_shot_accuracy") == pytest.approx(np.mean(hits))
    assert "zero-shot" in output and "auto is" in output


def test_the_packaged_towers_are_declared_as_an_id_is(probed) -> None:
    specs = packaged_specs()
    for name, by_id in (("clip-vit-b32-projected", "clip"), ("clip-vit-b32-text-projected", "clip-text")):
        packaged, generated = specs[name], encoder_spec(by_id)
        for field in ("model", "blocks", "last", "final_norm", "pooling", "embedding", "dtype"):
            assert getattr(packaged, field) == getattr(generated, field), (name, field)
