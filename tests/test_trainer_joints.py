"""Every joint space is the obvious loop over rows; weights are chosen on validation alone, or learned."""

import numpy as np
import pytest
import torch

from featcache.trainer.config import FitConfig
from featcache.trainer.fit import fit
from featcache.trainer.joints import JOINTS, simplex
from featcache.trainer.kinds import JOINT_KINDS
from featcache.trainer.tracking import EvaluationSplit, embed_split, joint_alignment
from tests.trainer_planted import planted_sides

QUICK = FitConfig(epochs=3, batch=32, width=16, k=5, lr=2e-2, permutations=100)


@pytest.fixture(scope="module")
def data():
    return planted_sides(240, third=True)


@pytest.fixture(scope="module")
def fitted(data):
    return {kind: fit(*data, QUICK.model_copy(update={"joint": kind})) for kind in JOINT_KINDS}


def on(fitted, split):
    prepared = EvaluationSplit(split, fitted.paired.part(split))
    return prepared, {name: space.values for name, space in embed_split(prepared, fitted.adapters).spaces.items()}


def test_the_settings_offer_exactly_the_joints_of_the_table():
    assert set(JOINT_KINDS) == set(JOINTS)


@pytest.mark.parametrize("kind", ["sum", "weighted", "learned"])
def test_a_sum_is_the_loop_over_rows_by_its_weights(fitted, kind):
    weights = dict(zip("xyz", fitted[kind].adapters.weights().tolist(), strict=True))
    assert sum(weights.values()) == pytest.approx(1) and (len(set(weights.values())) == 1) == (kind == "sum")
    _, spaces = on(fitted[kind], "test")
    for name, parts in (("joint", "xyz"), ("joint:x+y", "xy"), ("joint:y+z", "yz")):
        total = sum(weights[part] for part in parts)
        shares = {part: weights[part] / total if total else 1 / len(parts) for part in parts}
        for row in range(len(spaces["x"])):
            added = sum(shares[part] * np.asarray(spaces[part][row], np.float64) for part in parts)
            np.testing.assert_allclose(spaces[name][row], added / np.linalg.norm(added), atol=1e-5)


def test_the_kernel_of_a_concatenation_is_the_mean_of_the_sides_kernels(fitted):
    _, spaces = on(fitted["concatenation"], "test")
    spaces = {name: np.asarray(rows, np.float64) for name, rows in spaces.items()}
    mean = sum(spaces[side] @ spaces[side].T for side in "xyz") / 3
    np.testing.assert_allclose(spaces["joint"] @ spaces["joint"].T, mean, atol=1e-5)
    assert spaces["joint"].shape[1] == 3 * 16 and spaces["joint:x+z"].shape[1] == 2 * 16


def test_chosen_weights_are_the_first_best_on_validation(fitted):
    result = fitted["weighted"]
    validation, spaces = on(result, "validation")
    parts = [torch.as_tensor(spaces[side]).double() for side in "xyz"]
    scores = []
    for weights in simplex(3):
        added = sum(weight * part for weight, part in zip(weights, parts, strict=True))
        scores.append(joint_alignment(validation, torch.nn.functional.normalize(added).float(), result.config))
    best = int(np.argmax(scores))
    assert list(result.chosen["joint_weights"].values()) == pytest.approx(simplex(3)[best])
    assert result.chosen["joint_score"] == pytest.approx(scores[best], abs=1e-9)
    assert scores[best] > scores[simplex(3).index((0.3, 0.3, 0.4))] - 1e-9


def test_joints_without_learned_weights_train_the_same_adapters(fitted):
    plain = fitted["sum"].adapters.state_dict()
    for kind in ("concatenation", "weighted"):
        own = fitted[kind].adapters.state_dict()
        assert all(torch.equal(own[name], tensor) for name, tensor in plain.items())


def test_learned_weights_begin_equal_and_move(fitted, data):
    logits = fitted["learned"].adapters.joint_logits
    assert logits is not None and logits.abs().max() > 1e-3
    slow = fit(*data, QUICK.model_copy(update={"joint": "learned", "lr": 1e-7, "epochs": 1}))
    assert slow.adapters.weights().tolist() == pytest.approx([1 / 3] * 3, abs=1e-4)
