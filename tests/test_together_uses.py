"""Accuracies of pairs of encoders by use, and the bits that their features keep, against oracles and planted ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from featcache.data.errors import DataInvalid
from featcache.data.synthetic.generator import all_bits, modalities
from featcache.data.synthetic.released import Released, label_bits
from featcache.studies.emergence.synthetic.population import label_given
from featcache.studies.emergence.together.kept import bits_used, held_out_inputs, kept_bits
from featcache.studies.emergence.together.training import PairSettings, train_pairs
from featcache.studies.emergence.together.uses import FewLabels, TrainedPairs, few_rows, use_accuracies
from featcache.trainer.ensembles.pairs import PairMember, PairShape, initial_pairs
from featcache.trainer.ensembles.probes import MlpProbeFit, fit_linear_probes, whitened
from featcache.trainer.errors import EnsembleInvalid

SMALL = Released(shared=4, unique=2, used=4, rows=4_000)
SETTINGS = PairSettings(steps=60, width=8, depth=1, features=6)


def planted(level: int, h1: np.ndarray, h2: np.ndarray, aligned: int | None = None) -> TrainedPairs:
    """A pair whose features are given; its trained head is not trained."""
    data = next(iter(modalities(SMALL, level, [0])))
    member = PairMember(1.0, 0, aligned or h1.shape[1])
    shape = PairShape((6, 6), SMALL.classes, width=4, depth=1, features=h1.shape[1])
    features = h1[None].astype(np.float32), h2[None].astype(np.float32)
    return TrainedPairs(data, [member], initial_pairs(shape, [member]), features)


def by_use(pairs: TrainedPairs) -> dict[tuple[str, str, int], float]:
    """Accuracies of the only pair."""
    (rows,) = use_accuracies(pairs, 4, MlpProbeFit(steps=150))
    return {(row.use, row.side, row.labels): row.accuracy for row in rows}


@pytest.fixture(scope="module")
def trained() -> TrainedPairs:
    return train_pairs(SMALL, 2, 1, (0.0, 1.0), (0,), settings=SETTINGS, private=2)


def test_the_trained_head_is_judged_over_every_cell(trained: TrainedPairs) -> None:
    table, data = trained.data.table, trained.data
    shared, unique1, unique2 = (codes.ravel() for codes in np.indices(table.shape[:3]))
    rows = [
        torch.from_numpy(inputs[shared * 4 + unique]).float()
        for inputs, unique in ((data.inputs1, unique1), (data.inputs2, unique2))
    ]
    for number, scores in enumerate(use_accuracies(trained, 2, MlpProbeFit(steps=1))):
        modules = trained.ensemble.member(number)
        with torch.no_grad():
            h = [modules[f"encoder{side + 1}"](x) for side, x in enumerate(rows)]
            choice = modules["joint"](torch.cat(h, dim=1)).argmax(dim=1).numpy()
        slow = np.mean([table[c, u, v, y] for c, u, v, y in zip(shared, unique1, unique2, choice, strict=True)])
        fast = {row.use: row for row in scores if row.side == "both" and not row.labels}
        assert fast["joint_trained"].accuracy == pytest.approx(slow, abs=1e-3)
        assert all(row.accuracy <= row.bayes_accuracy + 1e-9 for row in scores)
        assert fast["joint"].bayes_accuracy == pytest.approx(table.max(axis=3).mean())


def test_features_of_rows_are_those_of_their_inputs(trained: TrainedPairs) -> None:
    test, encoder = trained.data.parts["test"], trained.ensemble.member(1)["encoder2"]
    with torch.no_grad():
        expected = encoder(torch.from_numpy(test.x2).float()).numpy()
    np.testing.assert_allclose(trained.rows(1, "test")[1], expected, atol=1e-5)


def test_features_that_are_the_bits_reach_what_can_be_reached() -> None:
    bits = 2.0 * all_bits(6) - 1
    found = by_use(planted(0, bits, bits))  # the label reads shared bits alone
    best = label_given(SMALL.table(0), 0).max(axis=1).mean()
    for key in (("joint", "both", 0), ("alone", "0", 0), ("alone", "1", 0)):
        assert found[key] == pytest.approx(best, abs=0.01)
    assert found["few", "0", 1] < found["few", "0", 10] < best


def test_a_probe_transfers_between_equal_spaces_and_between_turned_ones_only_through_a_map() -> None:
    shared = 2.0 * all_bits(6)[:, :4] - 1
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    equal, turned = by_use(planted(0, shared, shared)), by_use(planted(0, shared, shared @ turn))
    best = equal["alone", "0", 0]
    assert equal["transfer", "0→1", 0] == pytest.approx(best) == equal["transfer_mapped", "0→1", 0]
    assert turned["transfer_mapped", "0→1", 0] == pytest.approx(best)
    assert turned["transfer", "0→1", 0] < best - 0.2


def test_a_transfer_reads_aligned_features_alone() -> None:
    bits = 2.0 * all_bits(6) - 1
    noisy = np.concatenate([bits[:, :4], 9 * bits[:, 4:]], axis=1)  # the unique bits differ between the modalities
    shared = by_use(planted(0, noisy, noisy[:, [0, 1, 2, 3, 5, 4]], aligned=4))
    assert shared["transfer", "0→1", 0] == pytest.approx(by_use(planted(0, bits, bits))["alone", "0", 0], abs=0.01)


def test_features_that_know_nothing_tell_nothing() -> None:
    found = by_use(planted(2, np.zeros((64, 3)), np.zeros((64, 3))))
    assert all(accuracy == pytest.approx(0.25, abs=0.02) for (use, *_), accuracy in found.items() if use != "joint")


def test_few_labels_equal_ridge_regression_written_out() -> None:
    data = next(iter(modalities(SMALL, 1, [0])))
    h1, h2 = np.random.default_rng(3).standard_normal((2, 64, 3))
    drawn, slow = few_rows(data.parts["train"].labels, 4, 5, 6, seed=7), list[float]()
    scaled = [(h - h.mean(axis=0)) / np.sqrt(h.var(axis=0).sum()) for h in (h1, h2)]
    for rows in drawn:
        codes1, codes2 = data.parts["train"].codes1[rows], data.parts["train"].codes2[rows]
        x = np.concatenate([scaled[0][codes1], scaled[1][codes2]], axis=1)
        goal = np.eye(4)[data.parts["train"].labels[rows]] - 0.25
        weights = np.linalg.solve(x.T @ x + 0.3 * np.eye(6), x.T @ goal)
        right = 0.0
        for shared, unique1, unique2 in np.ndindex(16, 4, 4):
            at = np.concatenate([scaled[0][shared * 4 + unique1], scaled[1][shared * 4 + unique2]])
            right += data.table[shared, unique1, unique2, (at @ weights).argmax()]
        slow.append(right / 256)
    assert FewLabels(data, draws=6).accuracy((h1, h2), "both", 5) == pytest.approx(np.mean(slow), abs=2e-3)


def test_too_few_labelled_rows_are_refused_or_left_out() -> None:
    labels = np.array([0, 0, 1, 2, 3])
    with pytest.raises(DataInvalid, match="the rarest has 1"):
        few_rows(labels, 4, 2, 1, seed=0)
    drawn = few_rows(np.repeat(np.arange(4), 30), 4, 5, 3, seed=0)
    assert (np.repeat(np.arange(4), 30)[drawn] == np.repeat(np.arange(4), 5)).all()
    assert all(len(set(rows)) == 20 for rows in drawn.tolist())
    tiny = next(iter(modalities(replace(SMALL, rows=40), 0, [0])))
    assert not FewLabels(tiny, 1).possible(10) and FewLabels(tiny, 1).possible(1)


@pytest.mark.parametrize("level", Released().levels)
def test_the_bits_that_a_label_depends_on_are_those_that_it_reads(level: int) -> None:
    read, table = label_bits(Released(), level), Released().table(level)
    for side, unique in enumerate((read.unique1, read.unique2)):
        used = bits_used(table, side)
        assert set(np.flatnonzero(used)) == {*read.shared, *(8 + bit for bit in unique)}


def test_of_inputs_held_out_for_a_bit_both_values_are_as_many_whatever_the_others() -> None:
    held, bits = held_out_inputs(5), all_bits(5)
    for bit in range(5):
        others = np.delete(bits, bit, axis=1) @ 2 ** np.arange(4)
        for one in range(16):
            assert len(set(held[others == one, bit])) == 1
        assert bits[held[:, bit], bit].mean() == 0.5


def test_bits_that_features_hold_are_found_and_those_that_they_lack_are_at_chance() -> None:
    bits = 2.0 * all_bits(6) - 1
    sums = bits[:, :1] * bits[:, 1:2]  # told by no linear probe
    h1 = np.concatenate([bits[:, 1:3], sums, 0.05 * bits[:, 4:5]], axis=1)
    fit = MlpProbeFit(steps=400, batch=24)
    found = {(row.bit, row.probe): row for row in kept_bits(planted(2, h1, h1), fit)[0] if row.side == 0}
    for bit in (1, 2, 4):
        assert found[bit, "linear"].accuracy == 1.0
    assert found[0, "mlp"].accuracy > 0.9 and found[0, "linear"].accuracy < 0.7
    for bit in (3, 5):
        assert found[bit, "linear"].accuracy == pytest.approx(0.5) == found[bit, "mlp"].accuracy
    assert [found[bit, "mlp"].kind for bit in range(6)] == ["shared"] * 4 + ["unique"] * 2
    read = label_bits(SMALL, 2)
    assert {bit for bit in range(6) if found[bit, "mlp"].used} == {*read.shared, *(4 + bit for bit in read.unique1)}


def test_linear_probes_equal_those_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    stream = np.random.default_rng(0)
    x = stream.standard_normal((2, 200, 3)) @ np.array([[1.0, 2, 0], [0, 1, 5], [0, 0, 0.1]])
    classes = (x[0, :, 0] > 0).astype(int) + (x[1, :, 1] + stream.standard_normal(200) > 0)
    targets = torch.eye(3)[torch.from_numpy(classes)]
    probe = fit_linear_probes(torch.from_numpy(x), targets, "classes", penalty=0.01)
    for space, logits in zip(x, probe(torch.from_numpy(x)).softmax(dim=2).numpy(), strict=True):
        (white,) = whitened(torch.from_numpy(space)[None]).numpy()
        oracle = LogisticRegression(C=1 / (0.01 * 200), tol=1e-9, max_iter=2_000).fit(white, classes)
        np.testing.assert_allclose(logits, oracle.predict_proba(white), atol=1e-3)


def test_probes_of_bits_see_only_the_rows_that_they_may() -> None:
    stream = torch.Generator().manual_seed(0)
    x, bits = torch.randn(1, 80, 2, generator=stream), (torch.rand(80, 2, generator=stream) > 0.5).float()
    seen = torch.ones(80, 2, dtype=torch.bool)
    seen[60:, 1] = False
    both = fit_linear_probes(x, bits, "bits", seen=seen)
    changed = bits.clone()
    changed[60:, 1] = 1 - changed[60:, 1]
    again = fit_linear_probes(x, changed, "bits", seen=seen)
    torch.testing.assert_close(both(x), again(x))
    with pytest.raises(EnsembleInvalid, match="some of them seen"):
        fit_linear_probes(x, bits, "bits", seen=torch.zeros(80, 2, dtype=torch.bool))
    with pytest.raises(EnsembleInvalid, match="wanted as many"):
        fit_linear_probes(x, bits[:9], "bits")


def test_contrast_keeps_every_shared_bit_and_loses_unique_ones_that_nobody_reads() -> None:
    redundant = replace(SMALL, used=2)  # the label reads two of four shared bits
    settings = PairSettings(steps=200, width=16, depth=2, features=8)
    pairs = train_pairs(redundant, 0, 0, (0.0, 10.0), (0, 1, 2), settings=settings)
    kept = [*zip(pairs.members, kept_bits(pairs, MlpProbeFit(steps=1)), strict=True)]

    def mean(weight: float, kind: str, used: bool) -> float:
        return float(
            np.mean([
                row.accuracy
                for member, rows in kept
                for row in rows
                if (member.contrast, row.kind, row.used, row.probe) == (weight, kind, used, "linear")
            ])
        )  # fmt: skip

    assert mean(0.0, "shared", True) > 0.98 and mean(10.0, "shared", True) > 0.98
    assert mean(0.0, "shared", False) < 0.9 and mean(10.0, "shared", False) > 0.98
    assert mean(10.0, "unique", False) < 0.7 < mean(0.0, "unique", False)
