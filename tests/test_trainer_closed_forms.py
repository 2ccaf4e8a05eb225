"""Closed forms equal slow restatements; their hyper-parameters are the first best on validation."""

import numpy as np
import pytest
import scipy.linalg
import torch

from featcache.metrics.measure.engine import measure
from featcache.trainer import closed_forms
from featcache.trainer.architectures import RelativeRepresentation
from featcache.trainer.closed_forms import spectrum
from featcache.trainer.config import FitConfig
from featcache.trainer.draws import TrainingRows
from featcache.trainer.fit import fit, untrained_adapters
from featcache.trainer.kinds import HYPERPARAMETERS, SOLVED_KINDS
from featcache.trainer.solve import MOST_ANCHORS, SOLVERS, solve
from featcache.trainer.tracking import EvaluationSplit, alignment_settings, embed_split, mean_recall, retrieval_rows
from tests.trainer_planted import planted_sides

QUICK = FitConfig(k=5, permutations=39)


def changed(**update):
    return QUICK.model_copy(update=update)


def centred(n, d, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 6)) @ rng.normal(size=(6, d)) + 0.3 * rng.normal(size=(n, d))
    return rows - rows.mean(axis=0)


@pytest.fixture(scope="module")
def views():
    return centred(60, 9, 0), centred(60, 7, 1), centred(60, 8, 2)


@pytest.fixture(scope="module")
def data():
    return planted_sides(480)


@pytest.fixture(scope="module")
def solved(data):
    return {kind: fit(*data, changed(adapter=kind)) for kind in SOLVED_KINDS}


def test_the_settings_offer_exactly_the_solvers_of_the_table():
    assert set(SOLVED_KINDS) == set(SOLVERS)


# -- oracles ----------------------------------------------------------------------------------------------------------


def test_procrustes_is_scipys_rotation_of_unit_principal_components(views):
    x, y, _ = views
    maps = closed_forms.procrustes([spectrum(x), spectrum(y)], 5)
    components = [rows @ np.linalg.svd(rows, full_matrices=False)[2][:5].T for rows in (x, y)]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in components]
    rotation, _ = scipy.linalg.orthogonal_procrustes(unit[1], unit[0])
    # principal axes have free signs, so that the spaces are compared by their products
    np.testing.assert_allclose((y @ maps[1]) @ (x @ maps[0]).T, components[1] @ rotation @ components[0].T, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(y @ maps[1], axis=1), np.linalg.norm(components[1], axis=1))


def inverse_root(matrix):
    return np.linalg.inv(scipy.linalg.sqrtm(matrix).real)


@pytest.mark.parametrize("regularization", [1e-3, 0.5])
def test_cca_is_the_singular_value_decomposition_of_the_whitened_covariance(views, regularization):
    x, y, _ = views
    result = closed_forms.cca([spectrum(x), spectrum(y)], regularization, 5)
    left = inverse_root(x.T @ x / 60 + regularization * np.eye(9))
    right = inverse_root(y.T @ y / 60 + regularization * np.eye(7))
    u, correlations, vt = np.linalg.svd(left @ (x.T @ y / 60) @ right)
    np.testing.assert_allclose(result.correlations, correlations[:5], atol=1e-9)
    for weighted, weights in ((False, np.ones(5)), (True, correlations[:5])):
        a, b = result.take(5, weighted=weighted)
        wanted = left @ u[:, :5] @ np.diag(weights) @ vt[:5] @ right
        np.testing.assert_allclose(a @ b.T, wanted, atol=1e-9)


def test_without_regularisation_canonical_variates_are_uncorrelated_and_pairs_have_the_correlations(views):
    x, y, _ = views
    result = closed_forms.cca([spectrum(x), spectrum(y)], 1e-12, 6)
    a, b = (rows @ directions for rows, directions in zip((x, y), result.maps, strict=True))
    np.testing.assert_allclose(a.T @ a / 60, np.eye(6), atol=1e-6)
    np.testing.assert_allclose(a.T @ b / 60, np.diag(result.correlations), atol=1e-6)


def test_cca_of_many_views_has_the_first_eigenvectors_of_all_whitened_covariances(views):
    result = closed_forms.cca([spectrum(rows) for rows in views], 0.1, 4)
    roots = [inverse_root(rows.T @ rows / 60 + 0.1 * np.eye(rows.shape[1])) for rows in views]
    white = [rows @ root for rows, root in zip(views, roots, strict=True)]
    blocks = np.block([[np.zeros((a.shape[1],) * 2) if a is b else a.T @ b / 60 for b in white] for a in white])
    values, vectors = scipy.linalg.eigh(blocks)
    parts = np.split(vectors[:, ::-1][:, :4], [9, 16])
    np.testing.assert_allclose(result.correlations, values[::-1][:4] / 2, atol=1e-9)
    for (i, own), (j, other) in [((0, 0), (1, 1)), ((2, 2), (0, 0))]:
        wanted = roots[i] @ parts[own] @ parts[other].T @ roots[j]
        np.testing.assert_allclose(result.maps[i] @ result.maps[j].T, wanted, atol=1e-9)


def test_cca_of_many_views_is_that_of_two_where_there_are_two(views):
    x, y, _ = views
    two = closed_forms.cca([spectrum(x), spectrum(y)], 0.1, 4)
    twice = closed_forms.cca([spectrum(x), spectrum(y), spectrum(np.zeros((60, 2)))], 0.1, 4)
    np.testing.assert_allclose(2 * twice.maps[0] @ twice.maps[1].T, two.maps[0] @ two.maps[1].T, atol=1e-9)


@pytest.mark.parametrize(("n", "penalty"), [(60, 1e-3), (60, 2.0), (6, 0.1)])
def test_ridge_is_least_squares_with_penalty_rows_added(n, penalty):
    x, target = centred(n, 9, 0), centred(n, 4, 3) + 2
    weight, bias = closed_forms.ridge(spectrum(x), target, penalty)
    rows = np.vstack([x, np.sqrt(n * penalty) * np.eye(9)])
    wanted = np.linalg.lstsq(rows, np.vstack([target - target.mean(axis=0), np.zeros((9, 4))]), rcond=None)[0]
    np.testing.assert_allclose(weight, wanted, atol=1e-9)
    np.testing.assert_allclose(bias, target.mean(axis=0))


def test_a_relative_representation_keeps_the_largest_similarities_to_a_power():
    net = RelativeRepresentation(5, 8, torch.Generator().manual_seed(0))
    net.kept.fill_(3)
    net.power.fill_(2)
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    for row, own in zip(rows, net(rows), strict=True):
        similar = [float(row @ anchor / row.norm() / anchor.norm()) for anchor in net.anchors]
        kept = sorted(similar)[-3:]
        wanted = torch.tensor([max(value, 0.0) ** 2 if value in kept else 0.0 for value in similar])
        torch.testing.assert_close(own / own.norm(), wanted / wanted.norm())


def test_a_row_far_from_every_anchor_is_represented_by_the_nearest():
    net = RelativeRepresentation(4, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.anchors.copy_(-torch.eye(4)[:3])
    out = net(torch.tensor([[3.0, 2.0, 1.0, 1.0]]))
    assert out.tolist() == [[0.0, 0.0, 1.0]]


# -- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SOLVED_KINDS)
def test_planted_pairs_are_found_far_above_the_untrained_and_wrong_pairs(solved, data, kind):
    result = solved[kind]
    shuffled = fit(*data, result.config.model_copy(update={"shuffle_pairs": True}))
    test = EvaluationSplit("test", result.paired.part("test"))
    untrained = untrained_adapters(result.paired, result.config, 1, like=result.adapters)
    own, *controls = (
        mean_recall(retrieval_rows(test, embed_split(test, adapters)))
        for adapters in (result.adapters, shuffled.adapters, untrained)
    )
    assert own > 0.9 and max(controls) < 0.35  # chance is 10 of 120


@pytest.mark.parametrize("kind", SOLVED_KINDS)
def test_same_seed_same_bits_and_untrained_ones_have_the_same_width_and_settings(solved, data, kind):
    first, again = solved[kind], fit(*data, changed(adapter=kind))
    own, other = first.adapters.state_dict(), again.adapters.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
    untrained = untrained_adapters(first.paired, first.config, like=first.adapters)
    assert untrained.width == first.adapters.width
    assert {name: tensor.shape for name, tensor in untrained.state_dict().items()} == {
        name: tensor.shape for name, tensor in own.items()
    }
    settings = dict(first.adapters.named_buffers())
    assert all(torch.equal(buffer, settings[name]) for name, buffer in untrained.named_buffers())


@pytest.mark.parametrize("select", ["retrieval", "alignment"])
@pytest.mark.parametrize("kind", SOLVED_KINDS)
def test_hyper_parameters_are_the_first_best_on_validation_and_test_decides_nothing(solved, kind, select):
    config, tried = changed(adapter=kind, select=select), []
    result = fit_with(solved[kind].paired, config)
    validation = EvaluationSplit("validation", result.paired.part("validation"))

    def score(adapters):
        embedded = embed_split(validation, adapters)
        if select == "retrieval":
            tried.append(mean_recall(retrieval_rows(validation, embedded)))
        else:
            rows = measure([embedded.spaces["joint"]], validation.reference, alignment_settings(config)).rows
            tried.append(next(row.value for row in rows if row.metric == "mutual_knn"))
        return tried[-1]

    weights_seed, draws_seed, control_seed = (int(s) for s in np.random.SeedSequence(0).generate_state(3))
    rows = TrainingRows(result.paired.part("train"), config, draws_seed, control_seed)
    adapters, chosen = solve(kind, rows, config, score)
    assert chosen == result.chosen and chosen["score"] == max(tried) and chosen["candidates"] == len(tried) > 2
    assert set(chosen) - {"score", "candidates"} <= set(HYPERPARAMETERS)
    assert torch.equal(adapters.embed("x", torch.ones(1, 20)), result.adapters.embed("x", torch.ones(1, 20)))


def fit_with(paired, config):
    from featcache.trainer.fit import fit_paired

    return fit_paired(paired, config)


def test_what_is_tracked_is_the_untrained_adapters_and_the_solution(solved):
    for result in solved.values():
        assert {row.epoch for row in result.rows} == {0, 1} and result.selected_epoch == 1


def test_ridge_lands_in_the_references_space_and_predicts_its_rows(solved):
    result = solved["ridge"]
    test = result.paired.part("test")
    assert result.adapters.width == test.reference.shape[1] == 16
    for name, side in test.sides.items():
        cosine = (
            torch.nn.functional.normalize(test.reference)[side.groups] * result.adapters.embed(name, side.values)
        ).sum(dim=1)
        assert cosine.mean() > 0.97


def test_anchors_are_training_pairs(solved):
    result = solved["asif"]
    x = result.adapters["x"]
    train = result.paired.part("train").sides["x"].values
    rows = torch.nn.functional.normalize((train.double() - x.mean) / x.std, dim=1).float()
    nearest = (x.net.anchors @ rows.T).amax(dim=1)
    assert result.chosen["anchors"] == 240 <= MOST_ANCHORS
    torch.testing.assert_close(nearest, torch.ones(240))


def test_three_sides_are_solved_at_once():
    sides, reference = planted_sides(160, third=True)
    for kind in SOLVED_KINDS:
        result = fit(sides, reference, changed(adapter=kind))
        test = EvaluationSplit("test", result.paired.part("test"))
        for row in retrieval_rows(test, embed_split(test, result.adapters)):
            assert row.metric != "R@10" or row.value > 0.6, (kind, row.direction)


def test_more_dimensions_than_rows_can_be_solved():
    sides, reference = planted_sides(40)
    for kind in SOLVED_KINDS:
        result = fit(sides, reference, changed(adapter=kind, k=3))
        assert all(tensor.isfinite().all() for tensor in result.adapters.state_dict().values())
