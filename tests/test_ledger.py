"""Claims are judged by their rows: estimators against slow oracles, Holm within a family, errors as often as said."""

import json
from dataclasses import asdict, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats
from typer.testing import CliRunner

from featcache.commands.app import app
from featcache.metrics.measure.row import ContrastRow, Row, frame
from featcache.studies.competence import Competence, rank_correlation
from featcache.studies.experiments.spec import ExperimentInvalid, load_experiment, varied_names
from featcache.studies.ledger.claims import Claim, load_claims
from featcache.studies.ledger.estimators import ESTIMATORS, of_contrast, of_difference, of_rank, of_trend
from featcache.studies.ledger.ledger import Entry, judge, ledger_page, with_verdicts, write_ledger
from tests.rooms import ROOT

SHIPPED = ROOT / "experiments" / "claims.toml"


def table(rows: list[Row] | list[ContrastRow], kind: Any = Row, **columns: list[Any]) -> pl.DataFrame:
    """A sweep's table: context, what was varied, and the rows' own columns."""
    n = len(rows)
    context = {
        "dataset": ["openmoji"] * n,
        "layers": ["{}"] * n,
        "reference": ["big/last.cls"] * n,
        "seed": [0] * n,
        "control": [""] * n,
    }
    context |= {name: values for name, values in columns.items() if name in ("dataset", "reference", "seed", "control")}
    varied = {name: values for name, values in columns.items() if name not in context}
    return pl.concat(
        [pl.DataFrame({**context, "selected_epoch": [1] * n, "transfer": [""] * n, **varied}), frame(rows, kind)],
        how="horizontal",
    )


def score(value: float, **changes: Any) -> Row:
    row = Row("joint", "reference", "mutual_knn", value, n=100, stage="trained", split="test")
    return replace(row, **changes)


def contrast(value: float, half: float, **changes: Any) -> ContrastRow:
    row = ContrastRow("joint − x", "joint", "x", "difference", "reference", "mutual_knn", value=value, split="test")
    return replace(row, ci_low=value - half, ci_high=value + half, n=100, repeats=200, **changes)


def claim(estimator: str, **changes: Any) -> Claim:
    usual: dict[str, dict[str, Any]] = {
        "contrast": {"contrast": "joint − x"},
        "difference": {"a": {"control": ""}, "b": {"control": "shuffled"}},
        "trend": {"over": "swap"},
        "rank": {},
    }
    words = {"id": "one", "source": "us", "text": "It is so", "experiment": "e", "expect": "above"}
    return Claim(**{**words, "estimator": estimator, **usual[estimator], **changes})


# -- estimators -------------------------------------------------------------------------------------------------------


def test_a_difference_is_students_t_of_pairs_of_a_seed_in_any_order() -> None:
    rng = np.random.default_rng(0)
    right, shuffled = rng.normal(0.4, 0.05, 5), rng.normal(0.3, 0.05, 5)
    seeds = [3, 1, 4, 0, 2]
    rows = [score(value) for value in right] + [score(shuffled[seeds.index(seed)]) for seed in sorted(seeds)]
    controls = [""] * 5 + ["shuffled"] * 5
    effect = of_difference(claim("difference"), table(rows, seed=seeds + sorted(seeds), control=controls))
    oracle = stats.ttest_rel(right, shuffled)
    interval = oracle.confidence_interval()
    assert (effect.value, effect.p) == pytest.approx((np.mean(right - shuffled), oracle.pvalue))
    assert (effect.low, effect.high) == pytest.approx((interval.low, interval.high))
    assert (effect.n, effect.rows, effect.test_groups) == (5, 10, 100) and "5 seeds" in effect.interval


def test_a_difference_is_averaged_over_what_else_was_varied_before_seeds_count() -> None:
    value = {("", 8): 5.0, ("", 16): 7.0, ("shuffled", 8): 1.0, ("shuffled", 16): 2.0}
    keys = [(control, width, seed) for control, width in value for seed in (0, 1, 2)]
    rows = [score(value[control, width] + seed * (control == "")) for control, width, seed in keys]
    columns = {"control": [key[0] for key in keys], "width": [key[1] for key in keys], "seed": [key[2] for key in keys]}
    effect = of_difference(claim("difference"), table(rows, **columns))
    assert effect.n == 3 and effect.value == pytest.approx(4.5 + 1.0) and effect.rows == 12


def test_a_trend_is_the_mean_slope_of_a_seed() -> None:
    rng = np.random.default_rng(1)
    doses = [0.0, 0.25, 0.5, 1.0]
    values = rng.normal(0, 0.01, (4, 4)) - 0.2 * np.array(doses)
    rows = [score(value) for per_seed in values for value in per_seed]
    columns = {"swap": doses * 4, "seed": [seed for seed in range(4) for _ in doses]}
    effect = of_trend(claim("trend"), table(rows, **columns))
    slopes = [stats.linregress(doses, per_seed).slope for per_seed in values]
    assert effect.value == pytest.approx(np.mean(slopes)) and effect.p == pytest.approx(
        stats.ttest_1samp(slopes, 0).pvalue
    )
    named = table(rows, **columns, share=[f"{dose:.0%}" for dose in doses] * 4)
    assert of_trend(claim("trend"), named) == effect  # another column of the same values tells nothing else apart
    doubled = table(rows, **{**columns, "swap": [2.0**dose for dose in doses] * 4})
    assert of_trend(claim("trend", scale="log2"), doubled).value == pytest.approx(effect.value)


def test_a_contrast_adds_the_spread_over_groups_and_over_seeds() -> None:
    values, half = [0.10, 0.14, 0.18], 0.05
    effect = of_contrast(claim("contrast"), table([contrast(v, half) for v in values], ContrastRow, seed=[0, 1, 2]))
    freedom = 1 / (1 / 99 + 2 / 200)
    samples, seeds = (half / stats.t.ppf(0.975, freedom)) ** 2, np.var(values, ddof=1) / 3
    df = (samples + seeds) ** 2 / (samples**2 / freedom + seeds**2 / 2)
    assert effect.value == pytest.approx(0.14)
    assert effect.high == pytest.approx(0.14 + stats.t.ppf(0.975, df) * np.sqrt(samples + seeds))
    assert effect.p == pytest.approx(2 * stats.t.sf(0.14 / np.sqrt(samples + seeds), df))
    one = of_contrast(claim("contrast"), table([contrast(0.14, half)], ContrastRow))
    assert (one.low, one.high) == pytest.approx((0.09, 0.19)) and "one seed" in one.interval


def test_below_the_best_of_several_parts_counts_them() -> None:
    def p(value: float, kind: str) -> float:
        rows = [contrast(value, 0.05, kind=kind, parts="x+y+z")]
        return of_contrast(claim("contrast"), table(rows, ContrastRow)).p or 0.0

    assert p(-0.06, "max") == pytest.approx(3 * p(-0.06, "average"))
    assert p(0.06, "max") == pytest.approx(p(0.06, "average"))


@pytest.mark.parametrize(
    ("estimator", "rows", "words"),
    [
        ("difference", {"seed": [0, 0], "control": ["", "shuffled"]}, "one seed tells nothing"),
        ("difference", {"seed": [0, 1], "control": ["", "shuffled"]}, "no seed has rows of both"),
        ("difference", {"seed": [0, 1], "control": ["", ""]}, "no seed has rows of both"),
        ("trend", {"seed": [0, 0], "swap": [0.5, 0.5]}, "the rows are of several"),
        ("trend", {"seed": [0, 1], "swap": [0.5, 0.5]}, "fewer than two values of swap"),
        ("trend", {"seed": [0, 1]}, "no column swap"),
        ("trend", {"seed": [0, 0, 1, 1], "swap": [0.0, 1.0] * 2}, "the seeds do not differ at all"),
    ],
)
def test_what_cannot_be_estimated_says_why(estimator: str, rows: dict[str, list[Any]], words: str) -> None:
    n = len(rows["seed"])
    effect = ESTIMATORS[estimator](claim(estimator), table([score(0.5)] * n, **rows))
    assert words in effect.note and effect.p is None


def test_rows_of_several_settings_are_refused_and_named_instead_of_averaged() -> None:
    rows = [contrast(0.1, 0.05), contrast(0.2, 0.05)]
    effect = of_contrast(claim("contrast"), table(rows, ContrastRow, adapter2=["linear", "mlp"]))
    assert effect.value is None and '"adapter2": ["linear", "mlp"]' in effect.note
    spaces = [score(0.1), score(0.2, space="images"), score(0.1), score(0.2, space="images")]
    effect = of_difference(claim("difference"), table(spaces, control=["", "", "shuffled", "shuffled"]))
    assert effect.value is None and '"space": ["joint", "images"]' in effect.note


# -- verdicts ---------------------------------------------------------------------------------------------------------


def entry(p: float | None, effect: float = 0.1, **changes: Any) -> Entry:
    blank = Entry("one", "us", "It is so", "e", "quick", dataset="openmoji", expect="above", family="us")
    return replace(blank, effect=effect, p=p, **changes)


def test_a_verdict_is_the_direction_of_a_corrected_test() -> None:
    claims = {"one": claim("trend"), "two": claim("trend", id="two", expect="below")}
    entries = [entry(0.001), entry(0.001, -0.1), entry(0.2), entry(None), entry(0.001, claim="two"), entry(0.02)]
    judged = with_verdicts(entries, claims)
    verdicts = [one.verdict for one in judged]
    assert verdicts == ["held", "failed", "cannot tell here", "cannot tell here", "failed", "cannot tell here"]
    assert judged[0].p_holm == pytest.approx(0.006) and judged[3].p_holm is None  # one without p counts as a claim
    assert judged[5].note == "the interval leaves 0 out, but not after correction"
    apart = with_verdicts([entry(0.02), entry(0.02, family="others")], claims)
    assert [one.p_holm for one in apart] == [0.02, 0.02]


def test_a_claim_about_other_data_gets_an_effect_and_no_verdict() -> None:
    claims = {"one": claim("trend", needs={"dataset": "flickr30k"})}
    here, there = with_verdicts([entry(0.001), entry(0.001, dataset="flickr30k")], claims)
    assert (here.verdict, here.direction) == ("cannot tell here", "above") and "dataset flickr30k" in here.note
    assert there.verdict == "held"


def simulated(rng: np.random.Generator, effect: float, seeds: int) -> list[Entry]:
    """One study of six claims that share nothing but the family: three trends and three contrasts."""
    entries: list[Entry] = []
    for number in range(3):
        noise = rng.normal(0, 0.02, (seeds, 3)) + rng.normal(0, 0.05, (seeds, 1))
        rows = [score(value) for per_seed in noise + effect * np.arange(3) for value in per_seed]
        columns = {"swap": [0.0, 1.0, 2.0] * seeds, "seed": [seed for seed in range(seeds) for _ in range(3)]}
        slope = of_trend(claim("trend"), table(rows, **columns))
        entries.append(entry(slope.p, slope.value or 0.0, claim=f"t{number}"))
        shared = rng.normal(effect, 0.01)  # what the test groups do to every seed alike
        spread = 0.01 * np.sqrt(rng.chisquare(49.7) / 49.7)  # as the halves estimate it
        half = spread * stats.t.ppf(0.975, 1 / (1 / 99 + 2 / 200))
        values = [contrast(shared + rng.normal(0, 0.01), half) for _ in range(seeds)]
        paired = of_contrast(claim("contrast"), table(values, ContrastRow, seed=[*range(seeds)]))
        entries.append(entry(paired.p, paired.value or 0.0, claim=f"c{number}"))
    return with_verdicts(entries, {one.claim: claim("trend", id=one.claim) for one in entries})


@pytest.mark.parametrize(
    ("seeds", "studies"),
    [(3, 100), pytest.param(3, 1500, marks=pytest.mark.slow), pytest.param(5, 1500, marks=pytest.mark.slow)],
)
def test_under_equality_a_study_errs_at_most_in_one_of_twenty(seeds: int, studies: int) -> None:
    rng = np.random.default_rng(100 + seeds)
    wrong = sum(any(one.verdict != "cannot tell here" for one in simulated(rng, 0.0, seeds)) for _ in range(studies))
    assert wrong / studies <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / studies)


def test_effects_that_are_there_are_found() -> None:
    rng = np.random.default_rng(9)
    verdicts = [one.verdict for _ in range(20) for one in simulated(rng, 0.1, 5)]
    assert verdicts.count("held") >= 0.9 * len(verdicts) and "failed" not in verdicts


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of one experiment: a dose that lowers the score, and a contrast of two references."""
    folder = tmp_path / "e" / "quick"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    keys = [(seed, dose) for seed in range(3) for dose in (0.0, 0.5, 1.0)]
    rows = [score(0.5 - 0.2 * dose + rng.normal(0, 0.005)) for _, dose in keys]
    table(rows, seed=[seed for seed, _ in keys], swap=[dose for _, dose in keys]).write_parquet(folder / "rows.parquet")
    contrasts = [contrast(0.1, 0.05), contrast(-0.1, 0.05)]
    references = ["big/last.cls", "other/last.cls"]
    table(contrasts, ContrastRow, reference=references).write_parquet(folder / "contrasts.parquet")
    return tmp_path


CLAIMS = """
[[claims]]
id = "dose"
source = "us"
text = "A dose lowers it | by much"
experiment = "e"
estimator = "trend"
expect = "below"
over = "swap"
[[claims]]
id = "near"
source = "them"
text = "It is nearer"
experiment = "e"
estimator = "contrast"
expect = "above"
contrast = "joint − x"
[[claims]]
id = "elsewhere"
source = "them"
text = "There it is, too"
experiment = "nosuch"
estimator = "contrast"
expect = "above"
contrast = "joint − x"
[[claims]]
id = "none"
source = "them"
text = "Of another space"
experiment = "e"
estimator = "trend"
expect = "above"
over = "swap"
where = { space = "images" }
"""


def test_the_ledger_has_each_claim_on_each_reference_and_says_where_its_rows_are(study: Path) -> None:
    (study / "claims.toml").write_text(CLAIMS, encoding="utf-8")
    entries = judge(load_claims(study / "claims.toml"), study, "quick")
    assert [(one.claim, one.reference, one.verdict) for one in entries] == [
        ("dose", "big/last.cls", "held"),
        ("near", "big/last.cls", "held"),
        ("near", "other/last.cls", "failed"),
        ("elsewhere", "", "cannot tell here"),
        ("none", "", "cannot tell here"),
    ]
    assert entries[0].effect == pytest.approx(-0.2, abs=0.02) and entries[0].rows == 9
    wanted = json.loads(entries[0].selection)
    again = pl.read_parquet(study / "e/quick/rows.parquet").filter(
        *(pl.col(name) == value for name, value in wanted.items() if name != "over")
    )
    assert len(again) == 9
    assert "featcache sweep experiments/nosuch.toml" in entries[3].note and entries[4].note.startswith(
        "no space 'images'"
    )
    files = write_ledger(entries, study / "ledger")
    first = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in write_ledger(entries, study / "ledger")] == first
    read = pl.read_parquet(files[0])
    assert read["verdict"].to_list() == [one.verdict for one in entries] and read.schema["p_holm"] == pl.Float64
    page = ledger_page(entries)
    assert page.count("**held**") == 2 and "A dose lowers it \\| by much" in page and "## them" in page


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"contrast": "joint - x"}, "no contrast 'joint - x'; the nearest there is: joint − x"),
        ({"metric": "mutual_kn"}, "no metric 'mutual_kn'; the nearest there is: mutual_knn"),
        ({"where": {"splitt": "test"}}, "no column splitt in the table of e; the nearest there is: split"),
    ],
)
def test_what_a_claim_mistypes_is_named_with_the_nearest(study: Path, change: dict[str, Any], words: str) -> None:
    (one, *_) = judge([claim("contrast", **change)], study, "quick")
    assert one.note == words and one.effect is None


def test_the_command_writes_and_shows_the_ledger(study: Path) -> None:
    file = study / "claims.toml"
    file.write_text(CLAIMS, encoding="utf-8")
    result = CliRunner().invoke(app, ["ledger", str(file), "--out", str(study)])
    assert result.exit_code == 0, result.output
    assert (study / "ledger/quick/ledger.md").is_file() and "cannot tell here" in result.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("over", "ovr"), "unknown key claims.0.ovr; the nearest there is: over"),
        (('estimator = "trend"', 'estimator = "contrast"'), "dose: the estimator contrast lacks contrast"),
        (('id = "near"', 'id = "dose"'), "two claims are called dose"),
        (('id = "dose"', 'id = "A dose"'), "claims.0.id"),
        (("[[claims]]", "[[claim]]"), "unknown key claim"),
        (('over = "swap"', 'over = "swap"\ncontrast = "x"'), "dose: the estimator trend has no use for contrast"),
    ],
)
def test_a_claim_that_is_not_of_its_form_is_named(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    file = tmp_path / "claims.toml"
    file.write_text(CLAIMS.replace(*change), encoding="utf-8")
    with pytest.raises(ExperimentInvalid) as error:
        load_claims(file)
    assert words in str(error.value) and str(file) in str(error.value)


def test_every_shipped_claim_is_of_a_shipped_experiment_and_of_columns_that_it_has() -> None:
    for one in load_claims(SHIPPED):
        if one.estimator == "rank":
            assert one.over in Competence.__dataclass_fields__, one.id
            continue
        file = ROOT / "experiments" / f"{one.experiment}.toml"
        varied = varied_names(load_experiment(file, "quick").experiment)
        known = {*varied, "adapter", "control", "dataset", "trained_on", "transfer", *Row.__dataclass_fields__}
        used = {*one.where, *one.a, *one.b, *([one.over] if one.over else [])}
        assert used <= known, one.id
        several = {name for name in ("adapter", "loss") if name in varied}
        assert several <= used, one.id  # rows of several recipes give no effect


def ranks(performance: list[float], scores: list[float]) -> pl.DataFrame:
    rows = [
        Competence("openmoji", f"e{number}", "mutual_knn", value, better, "given", 100, 10, "{}")
        for number, (value, better) in enumerate(zip(scores, performance, strict=True))
    ]
    return pl.DataFrame([asdict(row) for row in rows])


def test_a_rank_is_spearmans_correlation_with_the_share_of_orders_as_strong() -> None:
    rng = np.random.default_rng(0)
    performance, scores = rng.normal(size=5).tolist(), rng.normal(size=5).tolist()
    effect = of_rank(claim("rank", over="performance"), ranks(performance, scores))
    wanted = stats.spearmanr(performance, scores).statistic
    every = [stats.spearmanr(performance, order).statistic for order in permutations(scores)]
    assert effect.value == pytest.approx(wanted) and effect.n == 5
    assert effect.p == pytest.approx(np.mean([abs(one) >= abs(wanted) - 1e-9 for one in every]))


def test_ranks_of_encoders_that_have_nothing_to_do_with_each_other_err_in_one_of_twenty() -> None:
    rng, false = np.random.default_rng(1), 0
    for _ in range(2_000):
        false += (rank_correlation(rng.normal(size=6), rng.normal(size=6).cumsum()).p or 1.0) <= 0.05
    assert 0.03 <= false / 2_000 <= 0.065


def test_three_encoders_cannot_decide_and_many_are_counted_by_drawn_orders() -> None:
    assert rank_correlation([1, 2, 3], [1, 2, 3]).p == pytest.approx(1 / 3)
    many = rank_correlation(range(12), range(12))
    assert many.rho == pytest.approx(1.0) and many.p is not None and many.p < 1e-3 and "drawn" not in many.method
    assert rank_correlation([1, 1, 1], [1, 2, 3]).rho is None
