"""Rows that an adapter was trained on never pose as test rows: not by name, by an edit, or behind a raw encoder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands.app import app
from featcache.data.views import Dataset, Overlay
from featcache.features import Features
from featcache.store.rows import overlay_name, write_rows
from featcache.studies.adapters.embed import embed, run_name
from featcache.studies.adapters.train import Workbench, train
from featcache.studies.alignment.align import align
from featcache.studies.alignment.common_rows import common_rows
from featcache.trainer.config import FitConfig
from featcache.trainer.defaults import Selection
from featcache.trainer.errors import NotPaired
from featcache.trainer.run import Run
from tests.alignment_cache import store_layers
from tests.spine import tiny_dataset

PHOTOS = 80
QUICK = FitConfig(epochs=1, batch=32, width=6, k=3, permutations=39, halves=20, untrained=2)


def a_dataset(splits: Callable[[int], str], name: str = "openmoji") -> Dataset:
    dataset = tiny_dataset(PHOTOS, 2, name=name)
    groups = dataset.overlay.groups
    return replace(dataset, overlay=Overlay(groups, tuple(splits(photo) for photo in range(PHOTOS))))


def published(photo: int) -> str:
    return ("train", "train", "validation", "test")[photo % 4]


def without_validation(photo: int) -> str:
    return ("train", "train", "train", "test")[photo % 4]


def fill(cache: Cache, dataset: Dataset) -> None:
    """Images and captions that share a latent."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((PHOTOS, 5))
    for encoder, view, rows in (("vit", "images", latent), ("lm", "captions", latent.repeat(2, axis=0))):
        values = rows @ rng.standard_normal((5, 8)) + 0.3 * rng.standard_normal((len(rows), 8))
        store_layers(cache, dataset, view, encoder, {"last.mean": values})


def trained(folder: Path, splits: Callable[[int], str] = published) -> tuple[Cache, Run]:
    cache = Cache(folder / "cache")
    fill(cache, a_dataset(splits))
    return cache, train(Workbench.load(cache, Selection("openmoji", ("vit", "lm"), None)), QUICK, folder / "run")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, Run, list[Features]]:
    cache, run = trained(tmp_path_factory.mktemp("published"))
    return cache, run, embed(cache, run)


def groups_of(dataset: Dataset, split: str) -> set[str]:
    return {group for group, its in zip(dataset.overlay.groups, dataset.overlay.splits, strict=True) if its == split}


def compared(*arrays: Features, split: str | None = None) -> set[Any]:
    return set(common_rows(arrays, split=split).row_groups)


def test_embeddings_are_compared_on_the_test_groups_of_their_run_unless_all_are_asked_for(
    made: tuple[Cache, Run, list[Features]],
) -> None:
    _, _, (images, captions) = made
    dataset = a_dataset(published)
    assert compared(images, captions) == groups_of(dataset, "test")
    for split in ("train", "validation", "test"):
        assert compared(images, captions, split=split) == groups_of(dataset, split)
    assert compared(images, captions, split="all") == set(dataset.overlay.groups)


def test_a_raw_encoder_beside_an_embedding_is_restricted_likewise_and_alone_it_is_not(
    made: tuple[Cache, Run, list[Features]],
) -> None:
    cache, _, (images, _) = made
    raw = cache.load("openmoji", "lm")
    test = groups_of(a_dataset(published), "test")
    assert compared(images, raw) == compared(raw, images) == test
    assert compared(cache.load("openmoji", "vit"), raw) == set(raw.groups)


def test_what_is_said_names_the_split_and_warns_of_training_groups(made: tuple[Cache, Run, list[Features]]) -> None:
    _, run, (images, captions) = made
    [first, _] = common_rows([images, captions]).notes
    assert first == (
        f"Groups: those of split test of the run that made {run_name(run)}/adapted.images (images); --split all takes "
        "those that it was trained on, too"
    )
    [first, _] = common_rows([images, captions], split="all").notes
    assert first.startswith("Caveat: 40 train and 20 validation groups of the run") and "among these 80" in first
    [first, _] = common_rows([images, captions], split="train").notes
    assert first.startswith("Caveat: the run that made") and "was trained on these groups" in first
    [first, _] = common_rows([images, captions], split="validation").notes
    assert "chose its epoch by these groups" in first
    assert {row.split for row in align(images, captions, null="none", k=3)} == {"test"}


def test_validation_groups_that_a_run_drew_from_the_training_split_are_neither_train_nor_test(tmp_path: Path) -> None:
    cache, run = trained(tmp_path, without_validation)
    drawn = set(run.config["split"]["drawn_validation"])
    images, captions = embed(cache, run)
    dataset = a_dataset(without_validation)
    assert len(drawn) == 6 and drawn < groups_of(dataset, "train")
    assert compared(images, captions) == groups_of(dataset, "test")
    assert compared(images, captions, split="validation") == drawn
    assert compared(images, cache.load("openmoji", "lm"), split="train") == groups_of(dataset, "train") - drawn


def test_splits_that_were_edited_after_the_training_do_not_turn_training_groups_into_test_groups(
    tmp_path: Path,
) -> None:
    cache, run = trained(tmp_path)
    embed(cache, run)
    edited = a_dataset(lambda photo: published(photo + 1))  # what was trained on is called test now
    for view in edited.views.values():
        write_rows(cache.folder / "openmoji" / view.name, view, edited.overlay)
    name = run_name(run)
    images, raw = cache.load("openmoji", f"{name}/adapted.images"), cache.load("openmoji", "lm")
    assert compared(images, raw) == groups_of(a_dataset(published), "test")
    assert compared(cache.load("openmoji", "vit"), raw, split="test") == groups_of(edited, "test")

    both = [f"{view}/{name}/adapted.{view}" for view in ("images", "captions")]
    with pytest.raises(NotPaired, match="had 20 of the 20 test groups in another split"):
        train(Workbench.load(cache, Selection("openmoji", both, None)), QUICK, tmp_path / "again")

    (cache.root / "openmoji" / overlay_name(run.config["overlay"])).unlink()  # as gc does
    images = cache.load("openmoji", f"{name}/adapted.images")
    with pytest.raises(NotPaired, match=r"which rows of openmoji it was trained on is not known\n.*--split all"):
        compared(images, raw)
    assert "is not known" in common_rows([images, raw], split="all").notes[0]


def test_an_embedding_of_another_data_set_has_no_training_rows(made: tuple[Cache, Run, list[Features]]) -> None:
    cache, run, _ = made
    other = a_dataset(lambda photo: "", name="strangers")
    ids = tuple(f"other {name}" for name in other.views["images"].ids)
    other = replace(other, views={**other.views, "images": replace(other.views["images"], ids=ids)})
    captions = other.views["captions"]
    turned = replace(captions, ids=tuple(f"other {name}" for name in captions.ids))
    fill(cache, replace(other, views={**other.views, "captions": turned}))
    images, captions = embed(cache, run, dataset="strangers")
    assert len(images.run_splits) == 0
    assert len(compared(images, captions)) == PHOTOS and common_rows([images, captions]).notes == []


def test_the_same_rows_under_another_name_are_still_those_that_were_trained_on(tmp_path: Path) -> None:
    cache, run = trained(tmp_path)
    fill(cache, a_dataset(published, name="renamed"))
    images, captions = embed(cache, run, dataset="renamed")
    assert compared(images, captions) == groups_of(a_dataset(published), "test")


def test_what_a_second_run_makes_of_embeddings_keeps_the_training_rows_of_the_first(tmp_path: Path) -> None:
    cache, run = trained(tmp_path, without_validation)
    embed(cache, run)
    name = run_name(run)
    sides = (f"images/{name}/adapted.images", f"captions/{name}/adapted.captions")
    again = QUICK.model_copy(update={"split_seed": 5})
    second = train(Workbench.load(cache, Selection("openmoji", sides, None)), again, tmp_path / "second")
    images, captions = embed(cache, second)
    first_drew, then_drew = (set(each.config["split"]["drawn_validation"]) for each in (run, second))
    assert first_drew != then_drew
    assert compared(images, captions, split="validation") == first_drew & then_drew
    assert compared(images, captions) == groups_of(a_dataset(without_validation), "test")


@pytest.mark.parametrize("command", ["align", "grid", "curve", "ceiling"])
def test_every_command_of_alignment_says_on_which_rows_of_an_embedding_it_was_made(
    made: tuple[Cache, Run, list[Features]], tmp_path: Path, command: str
) -> None:
    cache, run, _ = made
    sides = [f"images/{run_name(run)}/adapted.images", f"captions/{run_name(run)}/adapted.captions"]
    words = [command, "openmoji", *sides, *(["vit"] if command == "ceiling" else []), "--k", "3"]
    for split, n in ((None, 20), ("all", PHOTOS)):
        out = tmp_path / f"{split}.parquet"
        given = [*words, "--cache", str(cache.root), *(["--split", split] if split else [])]
        printed = CliRunner().invoke(app, [*given, "--out", str(out)], catch_exceptions=False).stdout
        assert f"split {split or 'test'}" in printed
        assert ("Caveat: 40 train and 20 validation groups" in printed) == (split == "all")
        shown = json.loads(CliRunner().invoke(app, [*given, "--json"], catch_exceptions=False).stdout)
        assert shown["split"] == (split or "test") and "the run that made" in shown["notes"][0]
        frame = pl.read_parquet(out)
        assert set(frame["split"]) == {split or "test"}
        assert frame["size" if command == "curve" else "n"].max() == n
