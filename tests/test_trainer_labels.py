"""Training on labels sees labels and no pairs, and is refused where there are none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from featcache.errors import UsageError
from featcache.studies.adapters.train import Workbench, train
from featcache.trainer.config import FitConfig, make_config
from featcache.trainer.defaults import DEMO, run_folder
from featcache.trainer.fit import fit_paired, untrained_adapters
from featcache.trainer.labels import check_labels, class_numbers
from featcache.trainer.losses import batch_loss, label_loss
from featcache.trainer.sides import pair_sides
from featcache.trainer.tracking import EvaluationSplit, embed_split
from tests.trainer_planted import planted_sides

CONFIG = FitConfig(loss="labels", epochs=8, batch=32, width=8, k=5, lr=1e-2, permutations=39, halves=20, untrained=2)


def labelled(n=200, classes=3, **changes):
    """Planted sides whose labels are the sign and size of the first common direction; no label in a fifth of groups."""
    sides, reference = planted_sides(n, **changes)
    first = np.linalg.svd(reference.values - reference.values.mean(axis=0), full_matrices=False)[0][:, 0]
    edges = np.quantile(first, np.arange(1, classes) / classes)
    kinds = np.array([f"k{place}" for place in np.searchsorted(edges, first)], dtype=object)
    kinds[::5] = ""
    of_group = dict(zip(reference.groups, kinds, strict=True))
    sides = {
        name: replace(side, labels={"kind": np.array([of_group[group] for group in side.groups], dtype=object)})
        for name, side in sides.items()
    }
    return sides, reference


@pytest.fixture(scope="module")
def paired():
    return pair_sides(*labelled(), CONFIG)


def unit(n, d, seed):
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return nn.functional.normalize(rows, dim=1)


# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_and_its_gradients_are_those_of_a_linear_module_and_a_loop_over_rows(masked):
    labels = torch.tensor([0, 2, -1, 1, 2, 0, -1])
    present = {"a": torch.tensor([1, 1, 1, 1, 0, 1, 1]).bool(), "b": torch.tensor([0, 1, 1, 1, 1, 1, 1]).bool()}
    rows = {"a": unit(7, 5, 0).requires_grad_(), "b": unit(7, 5, 1).requires_grad_()}
    module = nn.Linear(5, 3, bias=False, dtype=torch.float64)
    log_scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    per_side = []
    for name, values in rows.items():
        used = [i for i in range(7) if labels[i] >= 0 and (not masked or present[name][i])]
        logs = [(log_scale.exp() * module(values[i])).log_softmax(dim=0)[labels[i]] for i in used]
        per_side.append(-sum(logs) / len(logs))
    slow = sum(per_side) / 2 - np.log(3)
    inputs = [*rows.values(), module.weight, log_scale]
    expected = torch.autograd.grad(slow, inputs)
    fast = label_loss(rows, labels, module.weight, log_scale, present if masked else None)
    assert fast.item() == pytest.approx(slow.item(), abs=1e-12)
    for own, other in zip(torch.autograd.grad(fast, inputs), expected, strict=True):
        torch.testing.assert_close(own, other)
    assert not expected[0][2].any()  # a row without a label teaches nothing


def test_rows_that_tell_nothing_apart_lose_nothing_and_neither_do_none_at_all():
    rows = {"a": unit(6, 4, 0)}
    zeros, scale = torch.zeros(5, 4, dtype=torch.float64), torch.tensor(0.0)
    assert label_loss(rows, torch.tensor([0, 1, 2, 3, 4, 0]), zeros, scale).item() == pytest.approx(0)
    assert label_loss(rows, torch.full((6,), -1), zeros, scale).item() == 0


def test_no_pair_is_seen_rows_of_a_side_may_change_places_within_their_label():
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    x, y, classifier = unit(6, 4, 0), unit(6, 4, 1), unit(2, 4, 2)
    order = torch.tensor([5, 3, 0, 4, 1, 2])
    assert labels[order].equal(labels)
    whole, moved = (label_loss({"x": x, "y": rows}, labels, classifier, torch.tensor(1.0)) for rows in (y, y[order]))
    assert whole.item() == pytest.approx(moved.item(), abs=1e-12)


# -- classes ----------------------------------------------------------------------------------------------------------


def test_classes_are_the_labels_of_training_groups_and_others_have_none(paired):
    assert paired.classes == ("k0", "k1", "k2")
    for part in (paired, paired.part("train"), paired.part("test")):
        numbers = class_numbers(part).tolist()
        assert numbers == [-1 if label == "" else int(label[1]) for label in part.labels]
    strange = replace(paired, labels=np.where(paired.labels == "k1", "seen in test alone", paired.labels))
    assert set(class_numbers(strange).tolist()) == {-1, 0, 2}


def test_adapters_begin_where_those_of_any_other_loss_do(paired):
    own, other = (
        untrained_adapters(paired, config) for config in (CONFIG, CONFIG.model_copy(update={"loss": "infonce"}))
    )
    assert own.classifier.shape == (3, 8) and other.classifier is None
    others = other.state_dict()
    assert {*own.state_dict()} - {*others} == {"classifier"}
    assert all(torch.equal(value, others[name]) for name, value in own.state_dict().items() if name in others)


# -- training ---------------------------------------------------------------------------------------------------------


def nearest_class(paired, adapters, split):
    """Share of a split's labelled groups that the classifier is right about, of each side."""
    embedded = embed_split(EvaluationSplit(split, paired.part(split)), adapters)
    labels = class_numbers(paired.part(split))
    known = labels >= 0
    right = {}
    for name in paired.sides:
        told = (torch.as_tensor(embedded.spaces[name].values) @ adapters.classifier.T).argmax(dim=1)
        right[name] = float((told == labels)[known].float().mean())
    return right


def test_every_side_learns_to_tell_the_labels_of_held_out_groups(paired):
    fitted = fit_paired(paired, CONFIG.model_copy(update={"select": "last", "epochs": 30}))
    before = nearest_class(paired, untrained_adapters(paired, CONFIG), "test")
    after = nearest_class(paired, fitted.adapters, "test")
    assert min(after.values()) > 0.75 > 0.6 > max(before.values())
    losses = [row.value for row in fitted.rows if row.metric == "loss" and row.split == "validation"]
    assert losses[0] > -0.2 and losses[-1] < losses[0] - 0.3


def test_the_held_out_loss_is_that_of_first_rows_in_batches_with_the_labels_of_their_groups(paired):
    fitted = fit_paired(paired, CONFIG.model_copy(update={"epochs": 1, "batch": 1000}))
    part = paired.part("validation")
    rows = {name: fitted.adapters.embed(name, side.values[side.starts]) for name, side in part.sides.items()}
    with torch.no_grad():
        expected = batch_loss(fitted.adapters, CONFIG, rows, None, labels=class_numbers(part))
    (row,) = [row for row in fitted.rows if (row.metric, row.split, row.epoch) == ("loss", "validation", 1)]
    assert row.value == pytest.approx(expected.item(), abs=1e-5)


def test_learned_weights_of_the_joint_space_and_missing_sides_are_trained_as_well():
    sides, reference = labelled(third=True)
    kept = ~np.isin(sides["z"].groups.astype(str), [f"g{number:04d}" for number in range(0, 100, 4)])
    sides["z"] = sides["z"].take(kept)
    config = CONFIG.model_copy(update={"missing": "mask", "joint": "learned", "epochs": 3})
    fitted = fit_paired(pair_sides(sides, reference, config), config)
    assert fitted.adapters.weights().tolist() != pytest.approx([1 / 3] * 3, abs=1e-4)


def test_a_run_keeps_its_classifier_and_opens_again(tmp_path):
    sides, reference = labelled()
    run = train(Workbench(sides, reference), CONFIG, tmp_path / "run")
    assert run.config["config"]["loss"] == "labels" and run.adapters().classifier.shape == (3, 8)
    again = fit_paired(pair_sides(sides, reference, CONFIG), CONFIG)
    assert all(
        torch.equal(value, run.adapters().state_dict()[name]) for name, value in again.adapters.state_dict().items()
    )
    table = run.table("metrics")
    assert {"ridge", "noise", "trained", "untrained"} <= set(table["stage"])
    assert run_folder(DEMO, CONFIG) != run_folder(DEMO, CONFIG.model_copy(update={"loss": "infonce"}))


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("labels", "has"), [("", "none"), ("one", "'one' alone")])
def test_features_without_two_labels_are_refused_before_anything_is_written(tmp_path, labels, has):
    sides, reference = planted_sides(120)
    column = {name: {"kind": np.full(len(side.ids), labels, dtype=object)} for name, side in sides.items()}
    sides = {name: replace(side, labels=column[name]) for name, side in sides.items()}
    with pytest.raises(
        UsageError, match=f"(?s)trains on labels, and the training groups have {has}.*openmoji, cifar10"
    ):
        train(Workbench(sides, reference), CONFIG, tmp_path / "run")
    assert not [*tmp_path.iterdir()]
    bare = {name: replace(side, labels={}) for name, side in sides.items()}
    with pytest.raises(UsageError, match="the training groups have none"):
        fit_paired(pair_sides(bare, None, CONFIG), CONFIG)
    check_labels(pair_sides(bare, None, CONFIG), CONFIG.model_copy(update={"loss": "infonce"}))


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ({"shuffle_pairs": True}, "shuffle_pairs"),
        ({"swap": 0.5}, "swap"),
        ({"mixup": True}, "mixup"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"pair_weights": {"x+y": 2.0}}, "pair_weights"),
    ],
)
def test_settings_of_pairs_are_refused(choice, name):
    with pytest.raises(UsageError, match=f"the loss labels sees no pairs: it has no {name}"):
        make_config(loss="labels", **choice)
    with pytest.raises(UsageError, match="it has no loss"):
        make_config(loss="labels", adapter="cca")
