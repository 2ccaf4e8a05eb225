"""`encoder/auto`: a layer chosen on training groups, by agreement for train and by the label for probe."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands.app import app
from featcache.errors import FeaturesNotCached, UsageError
from featcache.selectors import check_name, parse_selector
from featcache.studies.adapters.layer_choice import choose_layers
from featcache.studies.alignment.grid import layers_of
from featcache.studies.downstream.probe import probe
from featcache.studies.downstream.settings import ProbeSettings
from featcache.trainer.config import FitConfig
from featcache.trainer.defaults import Selection, choose_selection
from tests.alignment_cache import store_layers
from tests.metric_oracles import dense_mutual_knn
from tests.spine import tiny_dataset

PHOTOS = 150
QUICK = FitConfig(epochs=2, batch=32, width=8, k=5, permutations=39, halves=20, untrained=1)


def noisy(rows, noise, seed, shown):
    """Rows in which a latent stands with this noise among `shown`; among all others there is nothing of it."""
    rng = np.random.default_rng(seed)
    mixed = rows @ rng.standard_normal((rows.shape[1], 12))
    return np.where(shown[:, None], mixed, 0) + noise * rng.standard_normal((len(rows), 12))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Layers of which one agrees best on training groups, and another on test groups alone."""
    cache, dataset = Cache(tmp_path_factory.mktemp("auto") / "cache"), tiny_dataset(PHOTOS, 2)
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((PHOTOS, 5))
    test = np.array(dataset.overlay.splits) == "test"
    every = np.ones(PHOTOS, bool)
    images = {
        "0.cls": np.ones((PHOTOS, 12)),  # as a ViT's before the first block
        "0.mean": noisy(latent, 3.0, 1, every),
        "1.mean": noisy(latent, 0.3, 2, ~test),
        "2.mean": noisy(latent, 0.01, 3, test),
        "last.mean": noisy(latent, 2.0, 4, every),
    }
    twice = every.repeat(2)
    captions = {
        "0.mean": noisy(latent.repeat(2, axis=0), 2.0, 5, twice),
        "last.mean": noisy(latent.repeat(2, axis=0), 0.3, 6, twice),
    }
    store_layers(cache, dataset, "images", "vit", images)
    store_layers(cache, dataset, "captions", "lm", captions)
    return cache, dataset, images, captions


def test_train_takes_the_layers_that_agree_best_on_training_groups_whatever_test_groups_say(planted) -> None:
    cache, dataset, images, captions = planted
    selection = Selection("openmoji", ("photo=vit/auto", "captions/lm/auto"), "vit/last.mean")
    chosen, choices = choose_layers(cache, selection, QUICK)
    assert chosen.encoders == ("photo=vit/1.mean", "captions/lm/last.mean") and chosen.reference == "vit/last.mean"
    train = np.flatnonzero(np.array(dataset.overlay.splits) == "train")
    means = {name: values.reshape(PHOTOS, 2, -1).mean(axis=1) for name, values in captions.items()}
    scores = {
        (x, y): dense_mutual_knn(torch.from_numpy(images[x][train]), torch.from_numpy(means[y][train]), k=QUICK.k)
        for x, y in product(images, means)
    }
    assert max(scores, key=scores.__getitem__) == ("1.mean", "last.mean")
    assert choices[0].score == pytest.approx(scores["1.mean", "last.mean"], abs=2e-3)
    assert [choice.of for choice in choices] == [5, 2] and choices[0].groups == len(train)


def test_a_side_that_names_its_layer_keeps_it(planted) -> None:
    cache, *_ = planted
    selection = Selection("openmoji", ("vit/auto", "lm/0.mean"), None)
    chosen, choices = choose_layers(cache, selection, QUICK)
    assert chosen.encoders == ("vit/1.mean", "lm/0.mean") and [choice.side for choice in choices] == ["vit/auto"]
    plain = Selection("openmoji", ("vit", "lm"), None)
    assert choose_layers(cache, plain, QUICK) == (plain, [])


def test_the_run_says_how_its_layers_were_chosen(planted, tmp_path) -> None:
    cache, *_ = planted
    run = tmp_path / "run"
    arguments = ["train", "openmoji", "vit/auto", "lm", "--reference", "none", "--epochs", "2", "--k", "5"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(run), "--cache", str(cache.folder)])
    assert result.exit_code == 0, result.output
    config = json.loads((run / "config.json").read_text())
    (layer,) = config["layers"]
    assert (layer["side"], layer["layer"], layer["of"]) == ("vit/auto", "1.mean", 5)
    assert config["sides"]["images"]["layer"] == "1.mean"
    assert "vit/auto: 1.mean, of 5 layers the best by mutual k-NN" in result.stderr


def test_without_a_reference_named_the_defaults_serve_auto_too(planted) -> None:
    cache, *_ = planted
    selection = choose_selection(cache, "openmoji", ["vit/auto", "captions/lm/auto"])
    assert choose_layers(cache, replace(selection, reference=None), QUICK)[0].encoders[0] == "vit/1.mean"
    missing = choose_selection(cache, "openmoji", ["nosuch/auto", "captions/lm"])
    with pytest.raises(FeaturesNotCached, match="no nosuch for openmoji"):
        choose_layers(cache, replace(missing, reference=None), QUICK)


def test_a_reference_is_not_chosen(planted) -> None:
    cache, *_ = planted
    with pytest.raises(UsageError, match="layer of a reference is not chosen"):
        choose_layers(cache, Selection("openmoji", ("vit", "lm"), "vit/auto"), QUICK)


def test_elsewhere_auto_is_refused_with_what_to_name(planted) -> None:
    cache, *_ = planted
    with pytest.raises(UsageError, match="vit/auto: here the layer is not chosen"):
        cache.load("openmoji", "vit/auto")
    with pytest.raises(UsageError, match="every layer is compared here\n  Leave auto out"):
        layers_of(cache, "openmoji", "vit/auto")
    with pytest.raises(UsageError, match="cannot be the name of an encoder"):
        check_name("auto", "an encoder")
    assert parse_selector("captions/lm/auto").layer == "auto"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Layers of which one tells the label on training and validation groups, and another on test groups alone."""
    cache, dataset = Cache(tmp_path_factory.mktemp("labelled") / "cache"), tiny_dataset(PHOTOS, 1)
    rng = np.random.default_rng(0)
    test = np.array(dataset.overlay.splits) == "test"
    classes = np.eye(4)[np.arange(PHOTOS) % 4] @ rng.standard_normal((4, 4))
    layers = {
        "0.mean": noisy(classes, 1.5, 1, np.ones(PHOTOS, bool)),
        "1.mean": noisy(classes, 0.3, 2, ~test),
        "last.mean": noisy(classes, 0.01, 3, test),
    }
    store_layers(cache, dataset, "images", "vit", layers)
    return cache


def test_probe_takes_the_layer_that_says_most_of_the_label_on_validation_groups(labelled) -> None:
    settings = ProbeSettings(halves=20, shots=(), k=(5,), penalties=(1.0, 0.1))
    result = probe(labelled, "openmoji", ["vit/auto", "vit/last.mean"], [], settings)
    (note,) = [note for note in result.notes if "auto" in note]
    assert note.startswith("images/vit/auto is 1.mean: of 3 layers the best by ridge on validation groups")
    values = {row.space: row.value for row in result.rows if row.metric == "ridge_accuracy"}
    explicit = probe(labelled, "openmoji", ["vit/1.mean"], [], settings)
    (same,) = [row.value for row in explicit.rows if (row.metric, row.space) == ("ridge_accuracy", "vit/1.mean")]
    assert values["vit/auto"] == same
    assert result.sources["vit/auto"] == explicit.sources["vit/1.mean"]


@pytest.mark.parametrize("folds", [False, True])
def test_the_hits_that_choose_are_scikit_learns(folds) -> None:
    from functools import partial

    from sklearn.linear_model import RidgeClassifier

    from featcache.metrics.probes.ridge import ridge_path
    from featcache.metrics.probes.selection import best_hits

    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 120)
    x = np.eye(3)[y] @ rng.standard_normal((3, 6)) + rng.standard_normal((120, 6))
    penalties = (1.0, 1e-1, 1e-3)
    path = partial(ridge_path, penalties=penalties)
    held = [np.arange(120) % 4 == fold for fold in range(4)] if folds else [np.arange(120) >= 90]
    totals = []
    for at in range(len(penalties)):
        fits = [[*path(x[~rows], y[~rows])][at] for rows in held]
        known = [RidgeClassifier(alpha=fit.alpha).fit(x[~rows], y[~rows]) for fit, rows in zip(fits, held, strict=True)]
        totals.append(sum((fit.predict(x[rows]) == y[rows]).sum() for fit, rows in zip(known, held, strict=True)))
    assert best_hits(path, [(x[~rows], y[~rows], x[rows], y[rows]) for rows in held]) == max(totals)
