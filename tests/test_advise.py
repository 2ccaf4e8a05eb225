"""Advice on planted spaces is what was planted, and says nothing where nothing can be told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featcache.commands.inputs import figures_of_inputs
from featcache.data.synthetic.released import Released
from featcache.data.synthetic.tables import joint_table
from featcache.errors import FeaturesNotCached, UsageError
from featcache.features import Features
from featcache.metrics.errors import BadChoice, BadShape, TooFewRows
from featcache.metrics.information.decompositions import broja
from featcache.metrics.information.tables import mutual_information
from featcache.metrics.probes.effects import Effect, paired_effect
from featcache.metrics.probes.information_bounds import INFORMATIONS, SHORTFALL, InformationRow
from featcache.report.figures.advice import advice_figure
from featcache.report.inputs import kind_of, read_inputs
from featcache.studies.advise.advise import advise, advise_rows
from featcache.studies.advise.answers import UseEffects, decide
from featcache.studies.advise.classifiers import draw_labels, few_labels, fold_splits, transfer
from featcache.studies.advise.labelled import labelled_rows
from featcache.studies.advise.result import PairAdvice
from featcache.studies.advise.settings import (
    ALIGN,
    APART,
    BACK,
    FIRST,
    FORTH,
    OPEN,
    PAIR,
    PRIVATE,
    AdviseSettings,
    Use,
    uses_of,
)
from featcache.studies.advise.trial import run_trial
from featcache.studies.advise.validation import Cell, bits_coverage, calibration_table, judged, quick, run_validation
from featcache.trainer.errors import NotPaired
from tests.advise_planted import QUICK, apart, buried, labelled, planted_cache, xor


def answers(pair: PairAdvice) -> dict[Use, str]:
    return {Use(row.use, row.reads, row.labels): row.answer for row in pair.answers}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def of_buried() -> PairAdvice:
    [pair] = advise_rows(labelled(*buried(400)), QUICK)
    return pair


@pytest.fixture(scope="module")
def of_xor() -> PairAdvice:
    [pair] = advise_rows(labelled(*xor(300)), replace(QUICK, steps=16, uses=("joint", "transfer")))
    return pair


def test_what_pairs_tell_and_few_labels_do_not_is_worth_aligning(of_buried: PairAdvice) -> None:
    found = answers(of_buried)
    assert found[Use("few", PAIR, 5)] == ALIGN
    assert found[Use("transfer", FORTH)] == found[Use("transfer", BACK)] == ALIGN
    # with every label an adapter adds nothing
    assert found[Use("joint", PAIR)] == found[Use("alone", FIRST)] == APART


def test_a_loud_part_of_one_space_alone_is_kept_beside_what_is_aligned() -> None:
    first, second, y = buried(400, unique=8.0)
    [pair] = advise_rows(labelled(first, second, y), replace(QUICK, seeds=3, uses=("alone", "few")))
    found = answers(pair)
    assert found[Use("few", FIRST, 5)] == PRIVATE
    assert found[Use("alone", FIRST)] == APART and pair.quantity("unique1").low > 0.5


def test_a_label_of_one_space_alone_is_no_reason_to_align() -> None:
    [pair] = advise_rows(labelled(*apart(600)), replace(QUICK, steps=40, uses=("joint", "alone", "transfer")))
    found = answers(pair)
    assert {found[use] for use in found if use.kind in ("joint", "alone", "transfer")} == {APART}
    [forth] = [row for row in pair.answers if row.reads == FORTH]
    assert "next to nothing" in forth.why
    assert pair.quantity("unique1").low > 0.4 and pair.quantity("redundancy").ci_high < 0.05


def test_noise_does_not_come_to_know_a_label_by_the_pairs_that_adapters_have_seen() -> None:
    rng = np.random.default_rng(3)
    y = np.arange(300) % 4
    known = np.eye(4)[y] @ rng.standard_normal((4, 24)) + 0.7 * rng.standard_normal((300, 24))
    [pair] = advise_rows(
        labelled(rng.standard_normal((300, 64)), known, y), replace(QUICK, steps=80, uses=("few", "transfer"))
    )
    assert pair.quantity("information2").value > 1.0
    for row in pair.answers:
        if row.reads in (FIRST, FORTH, BACK):
            assert abs(row.effect) < 0.1 and row.answer != ALIGN, row


def test_xor_is_synergy_and_no_reason_to_align(of_xor: PairAdvice) -> None:
    found = answers(of_xor)
    assert found[Use("joint", PAIR)] == found[Use("transfer", FORTH)] == APART
    assert of_xor.quantity("synergy").value > 0.6 and of_xor.quantity("redundancy").high < 0.03
    [joint] = [row for row in of_xor.answers if row.use == "joint"]
    assert joint.accuracy > 0.95


def test_few_rows_tell_nothing() -> None:
    [pair] = advise_rows(labelled(*buried(60)), replace(QUICK, steps=40, uses=("few",)))
    assert OPEN in answers(pair).values() and ALIGN not in answers(pair).values()
    assert not [use for use in answers(pair) if use.labels == 10]  # no class has ten groups to train on


def test_every_use_is_answered_once_and_effects_lie_in_their_intervals(of_buried: PairAdvice) -> None:
    assert list(answers(of_buried)) == uses_of()
    for row in of_buried.answers:
        assert row.ci_low <= row.effect <= row.ci_high and 0 <= row.accuracy <= 1
        assert (row.private_effect is None) == (row.use == "transfer")
        assert row.n == 400 and row.classes == 2 and 0 <= row.p <= row.p_holm <= 1


def test_the_same_seed_gives_the_same_hits_and_another_one_others() -> None:
    rows = labelled(*apart(66))
    settings, use = replace(QUICK, steps=8, draws=1, uses=("few",)), Use("few", PAIR, 1)
    made = [run_trial(rows, ("first", "second"), replace(settings, seed=seed))[use].aligned for seed in (0, 0, 1)]
    assert (made[0] == made[1]).all() and (made[0] != made[2]).any()


def test_adapters_and_classifiers_never_see_the_label_of_a_row_that_is_held_out() -> None:
    rows = labelled(*apart(66))
    settings = replace(QUICK, steps=8, draws=1)
    held = rows.folds == 0
    flipped = replace(rows, y=np.where(held, 1 - rows.y, rows.y))
    before, after = (run_trial(each, ("first", "second"), settings) for each in (rows, flipped))
    for use in before:
        for name in ("apart", "aligned", "private"):
            one, other = getattr(before[use], name), getattr(after[use], name)
            if one is not None:  # the same prediction is right for one label and wrong for the other
                assert np.allclose(one[:, held] + other[:, held], 1.0)


def test_three_spaces_are_judged_by_pairs_and_each_alone_only_once() -> None:
    first, second, y = apart(66)
    rows = labelled(first, second, y)
    rows.spaces["third"] = first[:, :2].astype(np.float32)
    steps = list[str]()
    pairs = advise_rows(rows, replace(QUICK, steps=8, uses=("transfer",)), on_step=steps.append)
    assert [pair.spaces for pair in pairs] == [("first", "second"), ("first", "third"), ("second", "third")]
    assert sum(step == "classifiers of first" for step in steps) == 1
    alone = [pair.quantity("information1").value for pair in pairs[:2]]
    assert alone[0] == alone[1]


# effects and decisions


def simulated(rng: np.random.Generator, *, of_trainings: float, seeds: int, folds: int, n: int) -> np.ndarray:
    """Differences without any effect: of the rows, of each fold's trainings, and of both together."""
    number = np.arange(n) % folds
    trainings = of_trainings * rng.standard_normal((seeds, folds))
    of_rows = rng.choice([-1.0, 0.0, 1.0], n, p=[0.1, 0.8, 0.1])
    return of_rows + trainings[:, number] + 0.2 * rng.standard_normal((seeds, n))


@pytest.mark.parametrize(("of_trainings", "seeds", "folds"), [(0.0, 2, 5), (0.05, 2, 5), (0.2, 2, 3), (0.2, 3, 5)])
def test_effects_of_nothing_are_called_effects_no_more_often_than_they_may(
    of_trainings: float, seeds: int, folds: int
) -> None:
    rng, repeats, n = np.random.default_rng(0), 600, 300
    found = [
        paired_effect(simulated(rng, of_trainings=of_trainings, seeds=seeds, folds=folds, n=n), np.arange(n) % folds)
        for _ in range(repeats)
    ]
    rejected = sum(each.p < 0.05 for each in found)
    covered = sum(each.interval(0.95)[0] <= 0 <= each.interval(0.95)[1] for each in found)
    assert rejected == repeats - covered  # the p and the interval agree
    assert 0.005 * repeats <= rejected <= 0.05 * repeats + 2.5 * (0.05 * 0.95 * repeats) ** 0.5


def test_rows_of_one_group_count_once() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 100))
    folds = np.arange(100) % 5
    plain = paired_effect(values, folds)
    repeated = paired_effect(np.repeat(values, 3, axis=1), np.repeat(folds, 3), groups=np.repeat(np.arange(100), 3))
    assert repeated.value == pytest.approx(plain.value) and repeated.error == pytest.approx(plain.error)


def test_an_effect_without_spread_is_certain_and_no_effect_is_none() -> None:
    folds = np.arange(12) % 3
    assert paired_effect(np.zeros((2, 12)), folds).p == 1.0
    assert paired_effect(np.full((2, 12), 0.25), folds).p == 0.0


def test_effects_refuse_what_has_no_error() -> None:
    with pytest.raises(TooFewRows, match="1 trainings"):
        paired_effect(np.zeros((1, 9)), np.arange(9) % 3)
    with pytest.raises(BadShape):
        paired_effect(np.zeros((2, 9)), np.arange(8))
    with pytest.raises(BadChoice, match="level"):
        paired_effect(np.ones((2, 9)), np.arange(9) % 3).interval(1.0)


def redundancy(high: float, low: float = 0.005) -> InformationRow:
    return InformationRow("redundancy", high / 2, low, high, low, high)


def effects(aligned: float, private: float | None = None, *, error: float = 0.005) -> UseEffects:
    def made(value: float) -> Effect:
        return Effect(value, error, 100.0, 1e-9 if value else 1.0)

    if private is None:
        return UseEffects(0.5, made(aligned), None, None)
    return UseEffects(0.5, made(aligned), made(private), made(private - aligned))


@pytest.mark.parametrize(
    ("use", "found", "answer"),
    [
        (Use("few", PAIR, 5), effects(0.10, 0.10 - 1e-12), ALIGN),
        (Use("few", PAIR, 5), effects(0.10, 0.15), PRIVATE),
        (Use("few", PAIR, 5), effects(0.10, 0.02), ALIGN),
        (Use("few", PAIR, 5), effects(-0.10, 0.05), PRIVATE),
        (Use("few", PAIR, 5), effects(-0.10, 0.0), APART),
        (Use("joint", PAIR), effects(0.0, 0.0), APART),
        (Use("joint", PAIR), effects(0.02, 0.01), APART),  # less than the least gain
        (Use("joint", PAIR), effects(0.0, 0.0, error=0.04), OPEN),
        (Use("transfer", FORTH), effects(0.3), ALIGN),
        (Use("transfer", FORTH), effects(0.0), APART),
        (Use("transfer", FORTH), effects(0.0, error=0.1), OPEN),
    ],
)
def test_an_answer_follows_from_effects(use: Use, found: UseEffects, answer: str) -> None:
    private_p = None if found.private is None else found.private.p
    said, _ = decide(use, found, redundancy(0.5), AdviseSettings(), p_holm=found.aligned.p, private_p_holm=private_p)
    assert said == answer


def test_a_transfer_of_what_only_one_knows_is_refused_whatever_the_trial_says() -> None:
    use, found = Use("transfer", BACK), effects(0.0, error=0.1)
    for high, answer in ((0.01, APART), (0.5, OPEN)):
        said, _ = decide(use, found, redundancy(high), AdviseSettings(), p_holm=1.0, private_p_holm=None)
        assert said == answer


def test_a_transfer_that_gains_without_anything_known_in_common_is_luck() -> None:
    use, found = Use("transfer", FORTH), effects(0.1)
    for low, answer in ((0.0, OPEN), (0.1, ALIGN)):
        said, _ = decide(use, found, redundancy(0.5, low), AdviseSettings(), p_holm=1e-9, private_p_holm=None)
        assert said == answer


def test_a_gain_that_does_not_survive_correction_is_none() -> None:
    found = effects(0.04, 0.04, error=0.002)
    answer, why = decide(Use("joint", PAIR), found, redundancy(0.5), AdviseSettings(), p_holm=0.2, private_p_holm=0.2)
    assert answer == APART and "0.05" in why


def test_an_unknown_use_is_refused() -> None:
    with pytest.raises(BadChoice, match="joint, alone, few, transfer"):
        replace(AdviseSettings(), uses=("fusion",))


@pytest.mark.parametrize("name", ["folds", "seeds", "draws", "steps", "width", "margin", "level"])
def test_settings_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(BadChoice, match="wanted"):
        replace(AdviseSettings(), **{name: 0})


# classifiers


def test_labels_are_drawn_of_training_rows_alone_and_of_each_class_as_many() -> None:
    y = np.arange(60) % 3
    [split, *_] = fold_splits(y, np.arange(60) % 5)
    drawn = draw_labels(split, 4, 6, seed=0)
    assert drawn.shape == (6, 12) and split.train[drawn].all()
    assert all((np.bincount(y[rows]) == 4).all() and len(set(rows.tolist())) == 12 for rows in drawn)


def test_few_labels_suffice_where_classes_lie_apart() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = 8 * np.eye(3)[y] + rng.standard_normal((90, 3))
    [split, *_] = fold_splits(y, np.arange(90) // 30)
    said = few_labels([x], split, draw_labels(split, 1, 5, seed=0))
    assert said.shape == (5, 30) and np.mean(said == y[split.held]) > 0.9


def test_a_gap_between_two_sides_does_not_hinder_a_transfer() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(90) % 2
    x = 4 * np.eye(2)[y] + rng.standard_normal((90, 2))
    [split, *_] = fold_splits(y, np.arange(90) // 30)
    assert np.mean(transfer(x, x + 50.0, split) == y[split.held]) > 0.95


# rows of cached arrays


def features(name: str = "eye", **change: object) -> Features:
    n = 60
    groups = np.array([f"g{number}" for number in range(n)], dtype=object)
    kinds = np.array([f"kind {number % 3}" for number in range(n)], dtype=object)
    values = np.random.default_rng(0).standard_normal((n, 3)).astype(np.float32)
    made = Features(values, groups, groups, np.full(n, "train"), {"kind": kinds}, dataset="d", view=name, encoder=name)
    return replace(made, **change)  # type: ignore[arg-type]


def test_groups_of_one_content_stand_in_one_fold_and_are_one_unit() -> None:
    hashes = np.array([f"h{number // 2}" for number in range(60)], dtype=object)
    rows = labelled_rows({"a": features(), "b": features("ear", hashes=hashes)}, "kind", groups=99, folds=5, seed=0)
    assert len(np.unique(rows.units)) == 30
    assert all(len(set(rows.folds[rows.units == unit])) == 1 for unit in range(30))


def test_several_rows_of_a_group_are_averaged() -> None:
    one = features()
    twice = one.take(np.repeat(np.arange(60), 2))
    twice = replace(twice, values=twice.values + np.tile([[1.0], [-1.0]], (60, 1)).astype(np.float32))
    rows = labelled_rows({"a": one, "b": twice}, "kind", groups=99, folds=3, seed=0)
    assert np.allclose(rows.spaces["a"], rows.spaces["b"], atol=1e-6) and rows.n == 60


def test_rare_classes_and_groups_without_label_are_left_out_and_counted() -> None:
    kinds = np.array(["" if at < 4 else "rare" if at < 8 else f"kind {at % 2}" for at in range(60)], object)
    one = features(labels={"kind": kinds})
    rows = labelled_rows({"a": one, "b": one}, "kind", groups=99, folds=3, seed=0)
    assert rows.n == 52 and rows.classes == ("kind 0", "kind 1")
    assert rows.notes[0].startswith("4 of 60 groups take no part")
    assert rows.notes[1] == "1 class of fewer than 6 groups is left out: 4 groups"


def test_more_groups_than_wanted_are_drawn_by_the_seed() -> None:
    one = features()
    first, again, other = (
        labelled_rows({"a": one, "b": one}, "kind", groups=40, folds=3, seed=seed) for seed in (0, 0, 1)
    )
    assert first.n == 40 and first.groups == again.groups != other.groups and "drawn with seed 0" in first.notes[-1]


def test_rows_that_cannot_be_judged_are_refused() -> None:
    one = features()
    bad = one.values.copy()
    bad[3] = np.nan
    few = np.array(["kind 0"] * 58 + ["kind 1"] * 2, dtype=object)
    for arrays, error, words in (
        ({"a": one, "b": replace(one, dataset="e")}, NotPaired, "one data set"),
        ({"a": one, "b": replace(one, groups=one.groups + "x")}, NotPaired, "same samples"),
        ({"a": one, "b": replace(one, values=bad)}, NotPaired, "not finite"),
        ({"a": one, "b": replace(one, run_splits=one.splits)}, NotPaired, "aligned already"),
        ({"a": replace(one, labels={"kind": few}), "b": one}, UsageError, "needs two"),
        ({"a": replace(one, labels={}), "b": replace(one, labels={})}, UsageError, "no labels"),
        ({"a": replace(one, labels={"hue": few}), "b": replace(one, labels={})}, UsageError, "it has hue"),
    ):
        with pytest.raises(error, match=words):
            labelled_rows(arrays, "kind", groups=99, folds=3, seed=0)


# the whole, from a cache


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_cache(tmp_path_factory.mktemp("advise")).root


def test_cached_arrays_are_judged_and_everything_is_written(cache_root: Path, tmp_path: Path) -> None:
    from featcache.cache import open_cache

    out = tmp_path / "advice.parquet"
    settings = replace(QUICK, steps=8, uses=("alone", "joint"))
    advice = advise(open_cache(str(cache_root)), "openmoji", ["eye", "ear"], settings, out=out)
    table = pl.read_parquet(out)
    assert dict(table["table"].value_counts().iter_rows()) == {"answer": 3, "information": 7, "alignment": 2}
    assert set(table["label"]) == {"bit"} and table["first_root"].n_unique() == 1 and table["versions"].n_unique() == 1
    [pair] = advice.pairs
    stored = table.filter(pl.col("table") == "answer")
    assert stored["answer"].to_list() == [row.answer for row in pair.answers]
    assert stored["accuracy_apart"].to_list() == [row.accuracy for row in pair.answers]
    figure = advice_figure(advice)
    assert figure.svg.startswith("<svg") and len(figure.rows) == 3 * 2 + 7
    assert all(answer in figure.alt for answer in {row.answer for row in pair.answers})
    assert kind_of(table) == "advise"
    [again] = figures_of_inputs(read_inputs([out]))["Tables"]
    assert again.spec == figure.spec and again.caption == figure.caption


def test_arrays_that_cannot_be_advised_on_are_refused_by_name(cache_root: Path) -> None:
    from featcache.cache import open_cache

    cache = open_cache(str(cache_root))
    made = AdviseSettings(label_views=("captions",))
    for arrays, settings, error, words in (
        (["eye"], QUICK, UsageError, "two or more"),
        (["eye", "eye"], QUICK, UsageError, "each array once"),
        (["eye", "ear"], replace(QUICK, label="hue"), UsageError, "it has bit, one, rare"),
        (["eye", "ear"], replace(QUICK, label="one"), UsageError, "needs two"),
        (["eye", "ear"], made, UsageError, "made from the label"),
        (["eye", "gpt2"], QUICK, FeaturesNotCached, "featcache extract openmoji gpt2"),
    ):
        with pytest.raises(error, match=words):
            advise(cache, "openmoji", arrays, settings)


# validation


@pytest.mark.parametrize(
    ("answer", "exact", "private", "outcome"),
    [
        (ALIGN, 0.2, 0.0, "right"),
        (ALIGN, -0.2, 0.0, "wrong"),
        (APART, -0.2, 0.3, "right"),
        (APART, 0.2, 0.3, "wrong"),
        (PRIVATE, -0.2, 0.0, "right"),
        (PRIVATE, -0.2, -0.1, "wrong"),
        (OPEN, 0.2, 0.3, "open"),
        (APART, 0.04, 0.0, "small"),
    ],
)
def test_an_answer_is_judged_by_the_sign_of_the_effect(answer: str, exact: float, private: float, outcome: str) -> None:
    assert judged(answer, exact, private) == outcome


def test_validation_sets_answers_beside_exact_effects_and_resumes(tmp_path: Path) -> None:
    said, cells = list[str](), [Cell("released", 0, 1)]
    rows = run_validation(cells, quick(), folder=tmp_path, on_step=said.append)
    assert len(rows) == 14 and len(said) == 1 and rows["exact"].is_not_nan().all()
    again = run_validation(cells, quick(), folder=tmp_path, on_step=said.append)
    assert again.equals(rows) and len(said) == 1


def test_the_calibration_table_counts_what_was_right_where_it_matters() -> None:
    outcomes = ["right", "right", "wrong", "open", "small"]
    rows = pl.DataFrame(
        {
            "generator": ["released"] * 5 + ["synergy"] * 5,
            "use": ["few"] * 10,
            "outcome": outcomes + ["right"] * 5,
            "certain": [True, False, True, True, True] + [True] * 5,
            "measured": [0.1, 0.2, 0.3, 0.4, 0.5] * 2,
            "exact": [0.1, 0.2, 0.3, 0.4, 0.5] + [-0.1, -0.2, -0.3, -0.4, -0.5],
        }
    )
    table = calibration_table(rows).filter(pl.col("use") == "few")
    assert table["set"].to_list() == ["frozen on", "judged on"] and table["rank"].round(6).to_list() == [1.0, -1.0]
    counts = ["answers", "cells", "right", "wrong", "open", "certain", "wrong_certain"]
    assert table.select(counts).rows() == [(5, 4, 2, 1, 1, 3, 1), (5, 5, 5, 0, 0, 5, 0)]


def test_parts_of_bits_themselves_are_set_beside_what_is_exact() -> None:
    small = Released(shared=4, unique=2, used=4, rows=1_500)
    rows = {row.quantity: row for row in bits_coverage(small, 2, rows=1_500, folds=3)}
    joint = joint_table(small.table(2))
    assert rows["information12"].exact == pytest.approx(mutual_information(joint.reshape(-1, joint.shape[2])))
    parts = broja(joint)
    assert rows["redundancy"].exact == parts.redundancy and rows["synergy"].exact == parts.synergy
    for row in rows.values():
        assert row.covered == (row.ci_low - 1e-5 <= row.exact <= row.ci_high + 1e-5)
        assert row.ci_low <= row.value + 1e-12 and row.value <= row.ci_high + 1e-12
    # few rows: classifiers know less than there is to know, and the row says so
    gaps = [abs(rows[name].value - rows[name].exact) for name in INFORMATIONS]
    assert rows["synergy"].close == (max(gaps) <= SHORTFALL)
