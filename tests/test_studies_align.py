"""Cached encoders are compared on the right rows, by every metric, with a chance level, and no search is made twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache import metrics
from featcache.cache import Cache
from featcache.errors import Ambiguous, FeaturesNotCached, OutputFailed, UsageError
from featcache.features import Features
from featcache.metrics import METRICS, paired
from featcache.metrics.errors import BadChoice, MetricError, TooFewRows
from featcache.metrics.measure.row import Row, p_text
from featcache.metrics.measure.settings import parse_metric
from featcache.metrics.pairing import MODES
from featcache.provenance import provenance
from featcache.studies.alignment.align import align
from featcache.studies.alignment.common_rows import common_rows
from featcache.studies.alignment.curves import ceilings, curves
from featcache.studies.alignment.grid import align_layers, layers_of
from featcache.studies.alignment.result import rows_for
from featcache.studies.alignment.settings import AlignSettings, parse_null
from featcache.studies.tables import context_columns, table, write_table
from featcache.trainer.errors import NotPaired
from tests.alignment_cache import CAPTIONS, PHOTOS, layered_cache, store_layers
from tests.spine import tiny_dataset


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache that tests only add graphs to."""
    return layered_cache(tmp_path_factory.mktemp("alignment"))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return layered_cache(tmp_path)


def images(cache: Cache) -> Features:
    return cache.load("openmoji", "vit")


def captions(cache: Cache) -> Features:
    return cache.load("openmoji", "lm")


def measured(cache: Cache, settings: AlignSettings) -> dict[str, Row]:
    return {row.metric: row for row in align(images(cache), captions(cache), settings, cache=cache)}


QUICK = AlignSettings(k=5, permutations=39)
EXACT_CHANCE = {"mutual_knn", "cka_linear", "cka_debiased", "rv", "hsic"}


# -- scores -----------------------------------------------------------------------------------------------------------


def test_every_metric_scores_what_its_function_does_or_says_why_not(kept: Cache) -> None:
    x, y = images(kept), captions(kept)
    both = paired(x.values, y.values, x.groups, y.groups)
    rows = align(x, y, replace(QUICK, metrics=("all",), null="none"), cache=kept)
    assert [row.metric for row in rows] == list(METRICS)
    assert {(row.space, row.against) for row in rows} == {("vit/last.cls", "lm/last.mean")}
    for row in rows:
        metric, options = METRICS[row.metric], {"k": 5} if "k" in METRICS[row.metric].options() else {}
        if metric.same_width:
            assert row.value is None and "wide" in row.note
            continue
        assert row.value == pytest.approx(metric.function(both.x, both.y, **options), rel=1e-9, abs=1e-12)
        assert (row.n, row.d, row.d_against, row.k) == (PHOTOS, 10, 8, options.get("k"))
        assert (row.p, row.null, row.note) == (None, "none", "")
    assert {row.metric for row in rows if row.chance is not None} == EXACT_CHANCE


def test_a_planted_latent_stands_out_and_strangers_do_not(kept: Cache) -> None:
    for row in measured(kept, QUICK).values():
        assert row.p == 1 / 40 and row.null == "39 permutations"
        assert row.value is not None and row.threshold is not None and row.value > row.threshold
        assert row.calibrated is not None and 0 < row.calibrated <= 1
        assert row.null_low is not None and row.chance is not None and row.null_high is not None
        assert row.null_low <= row.chance <= row.null_high < row.value
    for row in align(images(kept), kept.load("openmoji", "noise"), QUICK, cache=kept):
        assert row.p is not None and row.p > 0.05 and row.calibrated == 0


@pytest.mark.parametrize("pairing", MODES)
def test_captions_of_one_photo_do_not_raise_the_score_of_strangers(kept: Cache, pairing: Any) -> None:
    [row] = align(
        images(kept), kept.load("openmoji", "noise"), replace(QUICK, metrics=("mutual_knn",), pairing=pairing)
    )
    assert row.n == (PHOTOS * CAPTIONS if pairing == "all" else PHOTOS)
    assert row.value is not None and row.chance is not None and abs(row.value - row.chance) < 0.06


@pytest.mark.parametrize("split", [None, "train", "test"])
@pytest.mark.parametrize("pairing", MODES)
def test_graphs_from_the_cache_give_the_scores_that_a_search_gives(cache: Cache, pairing: Any, split: Any) -> None:
    names = ("mutual_knn", "lcs_knn", "rank_knn", "second_order_cosine", "cknna")
    settings = replace(QUICK, metrics=names, pairing=pairing, split=split, null="none")
    alone = align(images(cache), captions(cache), settings)
    for _ in range(2):
        rows = align(images(cache), captions(cache), settings, cache=cache)
        assert [row.value for row in rows] == [row.value for row in alone]


def test_what_is_cached_is_not_searched_again_for_the_same_or_a_smaller_k(cache: Cache, searches: list[int]) -> None:
    settings = replace(QUICK, metrics=("mutual_knn", "jaccard_knn", "cycle_knn"))
    assert "tiles" in measured(cache, settings)["mutual_knn"].backend
    assert searches == [5, 5], "one graph a side serves every metric"
    again = measured(cache, replace(settings, k=3))
    assert searches == [5, 5] and {row.backend for row in again.values()} == {"cache"}
    measured(cache, replace(settings, k=7))
    assert searches == [5, 5, 7, 7]


def test_a_split_is_read_off_a_graph_of_all_rows_where_that_is_deep_enough(cache: Cache, searches: list[int]) -> None:
    settings = replace(QUICK, metrics=("mutual_knn",), split="train", k=4)
    first = measured(cache, settings)["mutual_knn"]
    assert searches == [4, 4] and not list(cache.arrays(layer="graph.*")), "a part is searched and not kept"
    measured(cache, replace(settings, split=None, k=30))
    again = measured(cache, settings)["mutual_knn"]
    assert searches == [4, 4, 30, 30]
    assert again.backend == "cache" and again.value == first.value and again.n == 36


def test_metrics_take_options_and_state_every_one_of_them(kept: Cache) -> None:
    x, y = images(kept), captions(kept)
    both = paired(x.values, y.values, x.groups, y.groups)
    settings = replace(QUICK, metrics=("cka_rbf:sigma=median", "mutual_knn:metric=euclidean,k=7"), null="none")
    rbf, knn = align(x, y, settings)
    assert rbf.value == pytest.approx(metrics.cka(both.x, both.y, kernel="rbf", sigma="median"))
    assert knn.value == metrics.mutual_knn(both.x, both.y, k=7, metric="euclidean") and knn.k == 7
    assert "sigma=median" in rbf.convention and knn.convention == "metric=euclidean"


def test_options_are_parsed_as_json_or_text() -> None:
    assert parse_metric("rsa") == ("rsa", {})
    assert parse_metric("a:b=1,c=0.5,d=true,e=text") == ("a", {"b": 1, "c": 0.5, "d": True, "e": "text"})
    typed = "a:b=False,c=TRUE,d=none,e=.5,f=1e-3"
    assert parse_metric(typed)[1] == {"b": False, "c": True, "d": None, "e": 0.5, "f": 0.001}
    with pytest.raises(BadChoice, match="'b' has no '='"):
        parse_metric("a:b")


def test_false_is_false_however_it_is_written(kept: Cache) -> None:
    names = ("cka_linear:debiased=False", "cka_linear:debiased=false", "cka_linear", "cka_linear:debiased=True")
    values = [row.value for row in align(images(kept), captions(kept), replace(QUICK, metrics=names, null="none"))]
    assert values[0] == values[1] == values[2] != values[3]


def test_pairs_are_drawn_by_the_seed_that_was_asked_for(kept: Cache) -> None:
    settings = replace(QUICK, metrics=("rsa:pairs=50",), null="none")
    rows = [align(images(kept), captions(kept), settings, seed=seed)[0] for seed in (0, 9)]
    assert rows[0].value != rows[1].value
    both = paired(images(kept).values, captions(kept).values, images(kept).groups, captions(kept).groups)
    assert rows[1].value == metrics.rsa(both.x, both.y, pairs=50, pair_seed=9) and "pair_seed=9" in rows[1].convention
    [whole] = align(images(kept), captions(kept), replace(settings, metrics=("rsa",)))
    assert "seed" not in whole.convention


def test_what_cannot_be_measured_is_an_error_where_it_was_named(kept: Cache) -> None:
    x, y = images(kept), captions(kept)
    with pytest.raises(MetricError, match="wide"):
        align(x, y, replace(QUICK, metrics=("modality_gap",)))
    with pytest.raises(BadChoice, match="mutual_knn"):
        align(x, y, replace(QUICK, metrics=("mutual_nn",)))
    with pytest.raises(BadChoice, match="has no option sigma"):
        align(x, y, replace(QUICK, metrics=("mutual_knn:sigma=1",)))
    with pytest.raises(BadChoice, match="groups are those of the data set"):
        align(x, y, replace(QUICK, metrics=("mutual_knn:groups=1",)))
    with pytest.raises(TooFewRows, match="60"):
        align(x, y, replace(QUICK, k=PHOTOS))
    for wrong in ({"null": "bootstrap"}, {"interval": "rows"}, {"permutations": 0}, {"interval": "queries"}):
        with pytest.raises(BadChoice):
            AlignSettings(**wrong)  # pyright: ignore[reportArgumentType]


# -- nulls and intervals ----------------------------------------------------------------------------------------------


def test_the_closed_form_is_taken_where_it_is_asked_for_or_permuting_costs_much(
    kept: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("mutual_knn", "cka_linear", "cka_rbf")
    closed = measured(kept, replace(QUICK, metrics=names[:2], null="closed"))
    moments = {"mutual_knn": "normal, exact two moments", "cka_linear": "Pearson III, exact three moments"}
    assert {name: row.null for name, row in closed.items()} == moments
    with pytest.raises(BadChoice, match="closed form"):
        measured(kept, replace(QUICK, metrics=("jaccard_knn",), null="closed"))
    assert {row.null for row in measured(kept, replace(QUICK, metrics=names)).values()} == {"39 permutations"}
    monkeypatch.setattr("featcache.metrics.measure.null_policy.BUDGET", 0)
    large = measured(kept, replace(QUICK, metrics=names))
    assert [large[name].null for name in names] == ["39 permutations", moments["cka_linear"], "19 permutations"]
    every = measured(kept, replace(QUICK, metrics=names, null="permutation"))
    assert {row.null for row in every.values()} == {"39 permutations"}
    near = measured(kept, replace(QUICK, metrics=("cka_linear",), null="permutation", permutations=999))
    assert near["cka_linear"].chance == pytest.approx(large["cka_linear"].chance)


def test_a_metric_that_does_not_look_at_pairs_has_no_null(kept: Cache) -> None:
    x = images(kept)
    [gap] = align(x, x, replace(QUICK, metrics=("modality_gap",), interval="samples", repeats=20))
    assert gap.value == 0 and (gap.p, gap.null, gap.interval, gap.higher_is_better) == (None, "none", "none", False)


def test_a_metric_without_such_an_interval_keeps_its_score_and_its_null(kept: Cache) -> None:
    names = ("mutual_knn", "cka_linear", "cka_debiased")
    rows = measured(kept, replace(QUICK, metrics=names, k=4, interval="queries", queries=20))
    plain = measured(kept, replace(QUICK, metrics=names, k=4))
    assert rows["mutual_knn"].ci_low is not None and rows["mutual_knn"].note == ""
    for name in names[1:]:
        row = rows[name]
        assert (row.value, row.p, row.null, row.ci_low) == (plain[name].value, plain[name].p, plain[name].null, None)
        assert row.note.startswith(f"no interval: {name} is no mean over rows")


def test_of_all_metrics_those_without_a_closed_form_keep_their_score(kept: Cache) -> None:
    settings = replace(QUICK, metrics=("all",), null="closed", interval="queries", queries=20)
    nulls = {"none", "normal, exact two moments", "Pearson III, exact three moments"}
    rows = [row for row in align(images(kept), captions(kept), settings, cache=kept)]
    assert {row.null for row in rows} == nulls
    for row in rows:
        if METRICS[row.metric].same_width:
            continue
        assert row.value is not None and (row.null == "none") == ("no closed form" in row.note)
        assert (row.ci_low is None) == ("no interval" in row.note)


def test_what_computed_a_score_is_said_truly(kept: Cache) -> None:
    names = ("mutual_knn", "cknna", "second_order_cosine", "cka_linear", "procrustes")
    for null in ("none", "permutation"):
        settings = replace(QUICK, metrics=names, null=null)  # pyright: ignore[reportArgumentType]
        backends = {row.metric: row.backend for row in align(images(kept), captions(kept), settings)}
        assert all("tiles" in backends[name] for name in names[:3])
        assert (backends["cka_linear"], backends["procrustes"]) == ("torch (cpu)", "numpy")


def test_intervals_name_their_estimand_and_search_deep_enough(cache: Cache, searches: list[int]) -> None:
    names = ("mutual_knn", "cka_debiased")
    samples = measured(cache, replace(QUICK, metrics=names, k=4, interval="samples", repeats=40))
    for row in samples.values():
        assert row.ci_low is not None and row.value is not None and row.ci_high is not None
        assert row.ci_low < row.value < row.ci_high and "new samples" in row.estimand and row.short_rows == 0
    assert min(searches) > 2 * 4, "half of a list must still hold k"
    queries = measured(cache, replace(QUICK, metrics=names[:1], k=4, interval="queries", queries=20))["mutual_knn"]
    assert "quer" in queries.estimand and queries.estimand != samples["mutual_knn"].estimand


# -- nulls within labels ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Two encoders that agree in a photo's label and in nothing else, and a third that sees what the first does."""
    cache, dataset = Cache(tmp_path_factory.mktemp("coarse") / "cache"), tiny_dataset(PHOTOS, CAPTIONS)
    rng = np.random.default_rng(3)
    kinds = np.arange(PHOTOS) % 4
    own = rng.standard_normal((PHOTOS, 6))
    x = 4 * rng.standard_normal((4, 6))[kinds] + own
    y = 4 * rng.standard_normal((4, 5))[kinds] + rng.standard_normal((PHOTOS, 5))
    fine = own @ rng.standard_normal((6, 6)) + 4 * rng.standard_normal((4, 6))[kinds]
    store_layers(cache, dataset, "images", "vit", {"last.cls": x})
    store_layers(cache, dataset, "images", "fine", {"last.cls": fine})
    store_layers(cache, dataset, "captions", "lm", {"last.mean": np.repeat(y, CAPTIONS, axis=0)})
    return cache


@pytest.mark.parametrize("pairing", MODES)
def test_what_labels_explain_does_not_stand_out_within_them_and_finer_agreement_does(
    coarse: Cache, pairing: Any
) -> None:
    settings = replace(QUICK, permutations=99, pairing=pairing)
    x, y, fine = (coarse.load("openmoji", name) for name in ("vit", "lm", "fine"))
    for coarsely, within in zip(align(x, y, settings), align(x, y, settings, within="kind"), strict=True):
        assert coarsely.value == within.value and coarsely.p == 0.01
        assert within.p is not None and within.p > 0.05 and within.null == "99 permutations within kind"
        assert within.chance is not None and coarsely.null_high is not None
        assert within.chance > coarsely.null_high, "the labels' share is in the null"
    for row in align(x, fine, settings, within="kind"):
        assert row.p == 0.01


def test_the_null_within_labels_is_that_of_groups_permuted_within_them(coarse: Cache) -> None:
    """By hand: the order of equal labels alone is drawn anew, many times."""
    x, y = coarse.load("openmoji", "vit"), coarse.load("openmoji", "lm")
    both, kinds, rng = paired(x.values, y.values, x.groups, y.groups), x.labels["kind"], np.random.default_rng(1)
    scores = []
    for _ in range(300):
        order = np.arange(PHOTOS)
        for kind in np.unique(kinds):
            rows = np.flatnonzero(kinds == kind)
            order[rows] = rng.permutation(rows)
        scores.append(metrics.mutual_knn(both.x, np.asarray(both.y)[order], k=5))
    settings = replace(QUICK, metrics=("mutual_knn",), permutations=300, within="kind")
    [row] = align(x, y, settings)
    assert row.chance == pytest.approx(np.mean(scores), abs=3 * np.std(scores) / 300**0.5 * 2**0.5)
    assert (row.null_low, row.null_high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), abs=0.02)


def test_labels_are_read_off_whichever_array_has_them_in_the_order_of_the_rows(coarse: Cache) -> None:
    x, y = coarse.load("openmoji", "vit"), coarse.load("openmoji", "lm")
    bare = replace(x.take(np.random.default_rng(0).permutation(PHOTOS)), labels={})
    wanted = dict(zip(x.groups.tolist(), x.labels["kind"].tolist(), strict=True))
    for pairing in MODES:
        common = common_rows([y, bare] if pairing == "all" else [bare, y], pairing=pairing)
        assert common.labels("kind") == tuple(wanted[group] for group in common.row_groups)
        assert len(common.row_groups) == common.spaces[0].n


def test_a_label_that_is_not_there_is_refused_with_those_that_are(coarse: Cache) -> None:
    x, y = coarse.load("openmoji", "vit"), coarse.load("openmoji", "lm")
    with pytest.raises(NotPaired, match="no label 'colour' in openmoji; it has kind"):
        align(x, y, QUICK, within="colour")
    with pytest.raises(NotPaired, match="it has none"):
        align(*(replace(each, labels={}) for each in (x, y)), QUICK, within="kind")
    with pytest.raises(UsageError, match="compare one pair of layers"):
        align_layers(coarse, "openmoji", ["vit", "lm"], replace(QUICK, within="kind"))


def test_a_p_of_permutations_within_labels_is_written_as_one_of_permutations() -> None:
    nulls = ("2999 permutations", "2999 permutations within kind")
    assert {p_text(1 / 3000, null) for null in nulls} == {"< .001"}


def test_a_null_is_typed_by_its_kind_or_by_a_label() -> None:
    assert parse_null("within:super category") == ("auto", "super category")
    for typed in ("within", "within:", "labels:kind", ""):
        with pytest.raises(BadChoice, match="auto, permutation, closed, none, within:LABEL"):
            parse_null(typed)


# -- rows -------------------------------------------------------------------------------------------------------------


def test_groups_without_a_partner_are_left_out_and_counted(kept: Cache) -> None:
    x, y = images(kept), captions(kept)
    some = y.take(np.arange(30, len(y)))
    common = common_rows([x, some])
    assert common.notes == ["10 of 60 groups of vit/last.cls (images) have no partner"]
    assert [space.n for space in common.spaces] == [50, 50]
    np.testing.assert_array_equal(common.spaces[0].values, x.values[10:])


def test_any_number_of_arrays_come_to_common_rows(kept: Cache) -> None:
    x, y, z = images(kept), captions(kept), kept.load("openmoji", "big")
    for pairing in MODES:
        if pairing != "all":
            x_rows, y_rows, z_rows = (space.values for space in common_rows([x, y, z], pairing=pairing, seed=3).spaces)
            both = paired(x.values, y.values, x.groups, y.groups, mode=pairing, seed=3)
            np.testing.assert_array_equal(x_rows, both.x)
            np.testing.assert_array_equal(y_rows, both.y)
            np.testing.assert_array_equal(z_rows, z.values)
    turned = z.take(np.arange(PHOTOS)[::-1])
    np.testing.assert_array_equal(common_rows([x, turned]).spaces[1].values, z.values)
    everything = common_rows([y, x, z], pairing="all")
    assert [space.n for space in everything.spaces] == [PHOTOS * CAPTIONS] * 3
    with pytest.raises(NotPaired, match="most rows a group first"):
        common_rows([x, z, y], pairing="all")


def test_arrays_that_do_not_meet_are_refused(kept: Cache) -> None:
    x, y = images(kept), captions(kept)
    with pytest.raises(NotPaired, match="one data set"):
        common_rows([x, replace(y, dataset="flickr30k")])
    with pytest.raises(NotPaired, match="share no groups"):
        common_rows([x, replace(y, groups=np.array([f"other {group}" for group in y.groups], object))])
    with pytest.raises(NotPaired, match="'dev'; it has test, train, validation"):
        common_rows([x, y], split="dev")
    uneven = y.take(np.arange(1, len(y)))
    with pytest.raises(NotPaired, match="rows in x and"):
        common_rows([y, uneven], pairing="all")


# -- layers -----------------------------------------------------------------------------------------------------------


def test_layers_come_in_the_order_of_the_network_without_scalars_and_graphs(cache: Cache) -> None:
    measured(cache, QUICK)
    assert [features.layer for features in layers_of(cache, "openmoji", "vit")] == [
        "0.cls",
        "2.cls",
        "10.cls",
        "last.cls",
    ]
    assert [features.layer for features in layers_of(cache, "openmoji", "lm")] == ["0.mean", "1.mean", "last.mean"]
    assert [features.layer for features in layers_of(cache, "openmoji", "images/vit/2.cls")] == ["2.cls"]
    with pytest.raises(FeaturesNotCached, match="featcache extract openmoji gpt2"):
        layers_of(cache, "openmoji", "gpt2")


def test_an_encoder_of_two_views_must_be_named_with_its_view(cache: Cache) -> None:
    store_layers(cache, tiny_dataset(PHOTOS, CAPTIONS), "captions", "vit", {"last.cls": np.eye(PHOTOS * CAPTIONS, 4)})
    with pytest.raises(Ambiguous, match="captions, images.*captions/vit"):
        layers_of(cache, "openmoji", "vit")
    assert len(layers_of(cache, "openmoji", "images/vit")) == 4


def test_every_pair_of_layers_is_scored_once_searched_and_the_best_is_found(cache: Cache, searches: list[int]) -> None:
    settings = replace(QUICK, metrics=("mutual_knn", "cka_linear", "procrustes"))
    grids = align_layers(cache, "openmoji", ["vit", "lm"], settings)
    assert len(searches) == 7 and len(grids.scores) == 3 * 4 * 3
    for row in grids.scores:
        x, y = (grids.arrays[names] for names in ((row.encoder_x, row.layer_x), (row.encoder_y, row.layer_y)))
        [alone] = align(x, y, replace(settings, metrics=(row.metric,), null="none"), cache=cache)
        assert row.value == pytest.approx(alone.value) and (row.n, row.d_x, row.d_y) == (PHOTOS, 10, 8)
    assert len(searches) == 7
    for name in settings.metrics:
        rows = [row for row in grids.scores if row.metric == name]
        best = (max if METRICS[name].higher_is_better else min)(rows, key=lambda row: row.value)
        assert [row for row in rows if row.best] == [best]
        assert (best.layer_x, best.layer_y) == ("last.cls", "1.mean")
        assert best.p == (1 / 40 if name == "mutual_knn" else None)
        assert best.null == ("best pair of 39 permutations" if name == "mutual_knn" else "none")
    permuted = align_layers(
        cache, "openmoji", ["vit", "lm"], replace(settings, metrics=("cka_linear",), null="permutation")
    )
    assert {row.p is None for row in permuted.scores} == {False}


def test_the_best_of_many_strange_layers_is_not_taken_for_alignment(kept: Cache) -> None:
    grids = align_layers(kept, "openmoji", ["vit", "noise"], replace(QUICK, metrics=("mutual_knn",)))
    [best] = [row for row in grids.scores if row.best]
    assert best.p is not None and best.p > 0.05
    assert best.chance is not None and best.value > best.chance, "so a single pair's chance would have misled"


def test_several_encoders_are_compared_pairwise_and_both_ways_where_it_matters(kept: Cache) -> None:
    settings = replace(QUICK, metrics=("mutual_knn", "cycle_knn"), null="none")
    scores = align_layers(kept, "openmoji", ["vit", "lm", "big"], settings).scores
    pairs = {name: {(r.encoder_x, r.encoder_y) for r in scores if r.metric == name} for name in settings.metrics}
    assert len(pairs["mutual_knn"]) == 3 and len(pairs["cycle_knn"]) == 6
    one_way = align_layers(kept, "openmoji", ["vit", "lm"], settings, both_ways=False).scores
    assert {(row.encoder_x, row.encoder_y) for row in one_way} == {("images/vit", "captions/lm")}


def test_grids_refuse_what_they_cannot_give(kept: Cache) -> None:
    for settings in (replace(QUICK, interval="samples"), replace(QUICK, null="closed")):
        with pytest.raises(UsageError, match="best of many"):
            align_layers(kept, "openmoji", ["vit", "lm"], settings)
    with pytest.raises(UsageError, match="each once; got images/vit, images/vit"):
        align_layers(kept, "openmoji", ["vit", "vit"], QUICK)
    with pytest.raises(BadChoice, match="nosuch"):
        align_layers(kept, "openmoji", ["vit", "lm"], replace(QUICK, metrics=("nosuch",)))


# -- curves and ceilings ----------------------------------------------------------------------------------------------


def test_a_curve_needs_one_deep_graph_a_side_and_ends_at_the_score_of_all_rows(
    cache: Cache, searches: list[int]
) -> None:
    settings = replace(QUICK, metrics=("mutual_knn",), k=2)
    common = rows_for([images(cache), captions(cache)], settings, cache=cache)
    made = curves(common, settings, repeats=2)
    assert searches == [made.depth, made.depth] and sorted({p.size for p in made.gallery}) == [15, 30, 60]
    assert all(point.short_rows == 0 for point in made.gallery + made.ks)
    [whole] = [point for point in made.gallery if point.size == PHOTOS]
    [same] = [point for point in made.ks if point.k == 2]
    assert whole.value == same.value == measured(cache, settings)["mutual_knn"].value
    assert searches == [made.depth, made.depth]
    assert {p.size for p in curves(common, settings, sizes=[20, 40]).gallery} == {20, 40}


def test_a_curve_of_something_else_than_neighbours_is_refused(kept: Cache) -> None:
    common = rows_for([images(kept), captions(kept)], QUICK)
    with pytest.raises(BadChoice, match="take mutual_knn"):
        curves(common, replace(QUICK, metrics=("cka_linear",)))
    with pytest.raises(UsageError, match="one metric"):
        curves(common, QUICK)
    with pytest.raises(BadChoice, match="size 61: wanted galleries of k \\+ 1 = 6 to n = 60"):
        curves(common, replace(QUICK, metrics=("mutual_knn",)), sizes=[61])


def test_a_ceiling_shows_that_the_reference_is_in_the_photos_more_than_in_noise(kept: Cache) -> None:
    settings = replace(QUICK, metrics=("cka_debiased",))
    arrays = [images(kept), kept.load("openmoji", "noise"), kept.load("openmoji", "big")]
    made = ceilings(rows_for(arrays, settings), settings, folds=3)
    r2 = {s: np.mean([p.value for p in made.ridge if (p.source, p.metric) == (s, "r2")]) for s in ("x", "y", "both")}
    assert r2["x"] > 0.7 > 0.1 > r2["y"]
    mixing = {point.weight: point.value for point in made.mixing}
    assert mixing[1.0] > mixing[0.5] > mixing[0.0]


def test_a_ceiling_of_one_metric_at_two_options_shows_both(kept: Cache) -> None:
    settings = replace(QUICK, metrics=("mutual_knn:k=3", "mutual_knn:k=5", "mutual_knn:metric=euclidean"))
    arrays = [images(kept), captions(kept), kept.load("openmoji", "big")]
    made = ceilings(rows_for(arrays, settings), settings, folds=3)
    labels = {("mutual_knn:k=3", 3), ("mutual_knn:k=5", 5), ("mutual_knn:k=5,metric=euclidean", 5)}
    assert {(point.metric, point.k) for point in made.mixing} == labels
    assert {(point.metric, point.k) for point in made.ridge} == labels | {("r2", None)}


# -- tables -----------------------------------------------------------------------------------------------------------


def test_a_table_holds_all_that_a_reader_needs_and_keeps_its_types_when_columns_are_empty(
    kept: Cache, tmp_path: Path
) -> None:
    import polars as pl

    x, y = images(kept), captions(kept)
    rows = align(x, y, replace(QUICK, metrics=("mutual_knn",), null="none"), cache=kept)
    made = table(rows, [context_columns(QUICK, provenance(), x=x, y=y)])
    assert made.schema["ci_low"] == pl.Float64 and made.schema["short_rows"] == pl.Int64
    write_table(made, tmp_path / "deep" / "a.parquet")
    [read] = pl.read_parquet(tmp_path / "deep" / "a.parquet").to_dicts()
    assert read["x_digest"] == x.digest and read["y_root"] == y.root and read["x_layer"] == "last.cls"
    assert (read["value"], read["n"], read["k"], read["seed"]) == (rows[0].value, PHOTOS, 5, 0)
    assert read["pairing"] == "mean" and read["dataset"] == "openmoji" and "numpy" in read["versions"]
    with pytest.raises(UsageError, match=".parquet"):
        write_table(made, tmp_path / "a.csv")
    (tmp_path / "afile").write_text("in the way")
    with pytest.raises(OutputFailed, match="cannot write"):
        write_table(made, tmp_path / "afile" / "a.parquet")
