"""The table of MultiBench end to end on small files of its formats, and what its statistics say under independence."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr, spearmanr

from featcache.data.errors import DataInvalid
from featcache.data.multibench import PUBLISHED, load_multibench
from featcache.errors import UsageError
from featcache.metrics.sweeps.released_layers import released_rows
from featcache.report.figures.multibench import multibench_figures
from featcache.report.names import decimals
from featcache.report.terminal.multibench import show_multibench
from featcache.studies.emergence.multibench import table as study
from featcache.studies.emergence.multibench.models import Block, data_digest, load_ensemble, open_data, sequence_rows
from featcache.studies.emergence.multibench.protocol import (
    PROTOCOLS,
    PUBLISHED_CORRELATIONS,
    MultiBenchSettings,
    published_correlation,
)
from featcache.studies.emergence.multibench.table import (
    MultiBenchTables,
    best_model,
    cells_of,
    cells_table,
    correlations,
    read_multibench,
    run_multibench,
    with_holm,
)
from featcache.trainer.ensembles.sequences import hidden_of
from tests.multibench_files import write_affect, write_avmnist

SMALL = MultiBenchSettings(depths=(1, 2, 3, 4), epochs=2, batch=16, k=5, validation_rows=10)


@pytest.fixture(scope="module")
def avmnist(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MultiBenchTables]:
    root = tmp_path_factory.mktemp("avmnist")
    write_avmnist(root)
    return root, run_multibench("avmnist", root, root / "out", SMALL)


def released_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased linear CKA of prepared rows with every HSIC clipped at 0, by Song et al.'s equation 5."""

    def prepared(rows: np.ndarray) -> np.ndarray:
        limit = np.sort(np.abs(rows).ravel())[int(0.95 * rows.size)]
        kept = np.clip(rows.astype(np.float64), -limit, limit)
        kernel = (kept / np.linalg.norm(kept, axis=1, keepdims=True)) @ (
            kept / np.linalg.norm(kept, axis=1, keepdims=True)
        ).T
        np.fill_diagonal(kernel, 0)
        return kernel

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n = len(k)
        whole = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k @ m).sum() / (n - 2)
        return max(0.0, whole / (n * (n - 3)))

    k, m = prepared(x), prepared(y)
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_every_pair_is_measured_in_both_directions_with_intervals(avmnist: tuple[Path, MultiBenchTables]) -> None:
    _, tables = avmnist
    assert len(tables.models) == 2 * 4 * 3 and set(tables.models["performance"]) == {"accuracy"}
    cells = cells_of(tables.correlations)
    assert {(cell.fixed, cell.varied) for cell in cells} == {("image", "audio"), ("audio", "image")}
    assert len(cells) == 2 * 3 * 2 and all(cell.n == 12 and cell.depths == 4 and cell.rows == 24 for cell in cells)
    for cell in cells:
        part = tables.alignment.filter(fixed=cell.fixed, varied=cell.varied, metric=cell.metric)
        assert len(part) == 3 * 10 * cell.fixed_depth  # every pair of layers of every model
        assert (cell.fixed_depth, cell.fixed_seed) == best_model(tables.models, cell.fixed, SMALL.seeds)
        best = part.group_by("depth", "seed").agg(pl.col("value").max())
        scores = tables.models.filter(modality=cell.varied)
        joined = best.join(scores, on=["depth", "seed"])
        function = spearmanr if cell.method == "spearman" else pearsonr
        assert cell.value == pytest.approx(function(joined["value"], joined["test_performance"])[0])
        assert cell.low is None or cell.low < (cell.value or 0.0) < (cell.high or 0.0)
    published = {(cell.fixed, cell.varied): cell.published for cell in cells if cell.published is not None}
    assert published == {("audio", "image"): 0.887, ("image", "audio"): 0.723}


def test_alignment_is_that_of_a_straightforward_reading(avmnist: tuple[Path, MultiBenchTables]) -> None:
    root, tables = avmnist
    data = load_multibench("avmnist", root, validation_rows=10)
    cell = tables.alignment.row(0, named=True)
    layers: dict[str, Any] = {}
    for role, depth, seed in (("fixed", cell["fixed_depth"], cell["fixed_seed"]), ("varied", 3, 22)):
        modality = cell[role]
        block = Block("avmnist", root.resolve(), data_digest(data, modality), SMALL, modality, depth)
        rows = sequence_rows(data.splits["test"], modality, "cpu")
        hidden = hidden_of(load_ensemble(block, root / "out"), rows)
        layers[role] = [layer[SMALL.seeds.index(seed)].numpy() for layer in hidden]
    wanted = tables.alignment.filter(fixed=cell["fixed"], depth=3, seed=22, metric="cka_clipped")
    for row in wanted.iter_rows(named=True):
        value = released_cka(layers["fixed"][row["layer0"] - 1], layers["varied"][row["layer1"] - 1])
        assert row["value"] == pytest.approx(value, abs=1e-6)
    rows = layers["fixed"][0]
    np.testing.assert_allclose(np.linalg.norm(released_rows(rows, 0.95), axis=1), 1)


def test_an_ended_study_is_read_and_a_broken_one_goes_on(
    avmnist: tuple[Path, MultiBenchTables], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, tables = avmnist
    shares: list[float] = []
    done = [*(root / "out" / "blocks").glob("*/block.json")]
    assert len(done) == 8
    trained: list[str] = []

    def counted(block: Block, *rest: Any) -> Any:
        trained.append(block.folder)
        return original(block, *rest)

    original = study.run_block.__globals__["_fit"]
    monkeypatch.setitem(study.run_block.__globals__, "_fit", counted)
    again = run_multibench("avmnist", root, root / "out", SMALL, on_progress=lambda share, _: shares.append(share))
    assert not trained and again.correlations.equals(tables.correlations) and shares[-1] == 1.0
    assert shares == sorted(shares)
    lost = next(path for path in done if "audio-depth1-" in str(path))
    lost.unlink()  # as if the process had ended before the block did
    again = run_multibench("avmnist", root, root / "out", SMALL)
    assert trained == [lost.parent.name] and again.models.equals(tables.models)
    assert read_multibench(root / "out").correlations.equals(tables.correlations)
    other = data_digest(open_data("avmnist", root.resolve(), 10), "image")
    assert other != data_digest(open_data("avmnist", root.resolve(), 10), "audio")


def test_the_terminal_shows_ours_beside_the_published_ones(
    avmnist: tuple[Path, MultiBenchTables], capsys: pytest.CaptureFixture[str]
) -> None:
    show_multibench(avmnist[1])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert "AVMNIST: accuracy of 24 models".split() in lines
    for cell in cells_of(avmnist[1].correlations):
        if cell.published is not None:
            (line,) = [line for line in lines if line[:2] == [cell.varied, cell.fixed]]
            assert decimals(cell.published) in line and decimals(cell.value or 0.0) in line
    assert str(avmnist[1].folder) in lines[-1]


@pytest.mark.parametrize("name", ["mosi", "sarcasm"])
def test_pickles_go_through_to_the_tables(tmp_path: Path, name: str) -> None:
    write_affect(tmp_path, name, rows={"train": 8, "valid": 6, "test": 10}, protocol=2)
    settings = MultiBenchSettings(depths=(1,), seeds=(2,), epochs=1, batch=8, k=3)
    tables = run_multibench(name, tmp_path, tmp_path / "out", settings)
    assert {*tables.models["modality"]} == {"vision", "audio", "text"}
    assert tables.models["test_rows"][0] == 9  # one of ten has no text
    assert {*tables.models["pool"]} == {"mean" if name == "mosi" else "cls"}
    assert {*tables.models["performance"]} == {"sign accuracy" if name == "mosi" else "accuracy"}
    pairs = tables.correlations.select("fixed", "varied").unique()
    assert len(pairs) == 6 and tables.correlations["value"].null_count() == 36
    assert {*tables.correlations["note"]} == {"1 models: no coefficient below 12"}
    assert multibench_figures(tables.correlations) == []


def test_a_hostile_pickle_ends_the_study_by_name(tmp_path: Path) -> None:
    (tmp_path / "mosei_senti_data.pkl").write_bytes(b"\x80\x02}U\x05traincos\nsystem\nU\x02id\x85Rs.")
    with pytest.raises(DataInvalid, match=r"mosei_senti_data\.pkl: holds os\.system"):
        run_multibench("mosei", tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match="no data set of MultiBench is called 'imdb'; there are mosi"):
        run_multibench("imdb", tmp_path, tmp_path / "out")


def test_too_few_rows_and_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    write_affect(tmp_path, "mosi", rows={"train": 8, "valid": 6, "test": 8})
    with pytest.raises(UsageError, match="7 test rows are too few for alignment with k = 10; lower k"):
        run_multibench("mosi", tmp_path, tmp_path / "out")
    wrongs: list[dict[str, Any]] = [
        {"depths": (0, 1)},
        {"depths": ()},
        {"seeds": (1, 1)},
        {"quantile": 0.0},
        {"k": 0},
        {"epochs": 0},
    ]
    for wrong in wrongs:
        with pytest.raises(UsageError, match="wanted"):
            MultiBenchSettings(**wrong)


def test_protocol_and_published_figures_cover_every_data_set() -> None:
    assert [*PROTOCOLS] == [*PUBLISHED]
    for name, protocol in PROTOCOLS.items():
        assert [*protocol.rates] == [*PUBLISHED[name].widths]
    assert sum(len(pairs) for pairs in PUBLISHED_CORRELATIONS.values()) == 26
    for name, pairs in PUBLISHED_CORRELATIONS.items():
        modalities = [*PUBLISHED[name].widths]
        assert {*pairs} == {(a, b) for a in modalities for b in modalities if a != b}
    assert published_correlation("mosei", "text", "audio") == -0.145
    assert published_correlation("mosi", "vision", "audio") == 0.313


def test_the_best_model_is_the_first_of_equals_by_seed_and_depth() -> None:
    rows = [("vision", 3, 22, 0.7), ("vision", 2, 42, 0.7), ("vision", 4, 2, 0.6), ("vision", 5, 22, 0.7)]
    rows += [("audio", 9, 2, 1.0)]
    models = pl.DataFrame(rows, schema=["modality", "depth", "seed", "valid_performance"], orient="row")
    assert best_model(models, "vision", (2, 22, 42)) == (3, 22)
    assert best_model(models, "vision", (42, 22, 2)) == (2, 42)


def independent(rng: np.random.Generator, depths: int, seeds: int, within: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables of a data set of two modalities where performance has nothing to do with alignment, both clustered."""
    rows = [(depth, seed) for depth in range(1, depths + 1) for seed in range(seeds)]

    def clustered() -> np.ndarray:
        shared = np.repeat(rng.normal(size=depths), seeds)
        return np.sqrt(1 - within) * shared + np.sqrt(within) * rng.normal(size=len(rows))

    models, alignment = [], []
    for fixed, varied in (("image", "audio"), ("audio", "image")):
        keys = {"dataset": "avmnist"}
        for (depth, seed), performance, value in zip(rows, clustered(), clustered(), strict=True):
            models.append({**keys, "modality": varied, "depth": depth, "seed": seed, "test_performance": performance})
            alignment.append(
                {**keys, "fixed": fixed, "varied": varied, "fixed_depth": 1, "fixed_seed": 0, "depth": depth,
                 "seed": seed, "metric": "cka_clipped", "value": value, "n": 500}
            )  # fmt: skip
    return pl.DataFrame(models), pl.DataFrame(alignment)


@pytest.mark.parametrize("within", [0.1, 1.0])
def test_under_independence_verdicts_and_intervals_keep_their_size(within: float) -> None:
    """Ten depths of three seeds, as published: models of one depth alike (.9 of their variance), or independent."""
    rng, repeats = np.random.default_rng(5), 100
    cells = [cell for _ in range(repeats) for cell in cells_of(correlations(*independent(rng, 10, 3, within)))]
    for method in ("pearson", "spearman"):
        own = [cell for cell in cells if cell.method == method]
        missed = np.mean([not (cell.low or 0.0) <= 0 <= (cell.high or 0.0) for cell in own])
        assert missed <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(own)), method  # 200 intervals
        families = np.array([cell.verdict != "cannot tell" for cell in own]).reshape(repeats, 2).any(axis=1)
        assert families.mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats), method


def test_a_drift_with_depth_that_both_share_by_chance_is_no_relation_within_depths() -> None:
    rng, missed = np.random.default_rng(3), dict.fromkeys(("all", "within"), 0)
    for _ in range(100):
        models, alignment = independent(rng, 10, 3, 0.1)
        # both wander with depth, each for itself
        walks = [np.cumsum(rng.normal(size=10)) for _ in range(2)]
        models = models.with_columns(pl.col("test_performance") + pl.Series(walks[0][models["depth"].to_numpy() - 1]))
        alignment = alignment.with_columns(pl.col("value") + pl.Series(walks[1][alignment["depth"].to_numpy() - 1]))
        cell = next(cell for cell in cells_of(correlations(models, alignment)) if cell.method == "pearson")
        missed["all"] += not (cell.low or 0.0) <= 0 <= (cell.high or 0.0)
        missed["within"] += not (cell.within_low or 0.0) <= 0 <= (cell.within_high or 0.0)
    assert missed["within"] <= 5 + 3 * np.sqrt(0.05 * 0.95 * 100)
    assert missed["all"] > 10  # the limit that docstring and docs state


def test_a_planted_relation_is_told_and_corrected_over_the_cells() -> None:
    models, alignment = independent(np.random.default_rng(0), 10, 3, 0.5)
    related = models.with_columns(modality=pl.lit("audio")).filter(models["modality"] == "audio")
    alignment = alignment.filter(varied="audio").drop("value").join(
        related.select("depth", "seed", value=pl.col("test_performance") * -0.2), on=["depth", "seed"]
    )  # fmt: skip
    noise = np.random.default_rng(1).normal(size=len(alignment)) * 0.05
    table = correlations(models, alignment.with_columns(value=pl.col("value") + noise))
    cells = cells_of(table)
    assert {cell.verdict for cell in cells} == {"below"} and all((cell.high or 0.0) < 0 for cell in cells)
    twice = with_holm([*cells, *(cell for cell in cells)])
    assert twice[0].cells == 2 and twice[0].p_holm == pytest.approx(2 * (cells[0].p or 0.0))
    assert cells_table(cells).equals(table)


def test_eleven_models_have_no_coefficient_and_constant_performance_no_interval() -> None:
    models, alignment = independent(np.random.default_rng(0), 4, 3, 0.5)
    fewer = alignment.filter(~((pl.col("depth") == 4) & (pl.col("seed") == 2)))
    cells = cells_of(correlations(models, fewer))
    assert all(cell.value is None and cell.note == "11 models: no coefficient below 12" for cell in cells)
    assert all(cell.verdict == "cannot tell" and cell.p_holm is None for cell in cells)
    same = correlations(models.with_columns(test_performance=pl.lit(0.5)), alignment)
    assert {*same["note"]} == {"one of both does not vary"} and same["value"].null_count() == len(same)


def test_the_figure_shows_ours_beside_the_published_ones() -> None:
    models, alignment = independent(np.random.default_rng(0), 10, 3, 0.5)
    (figure,) = multibench_figures(correlations(models, alignment))
    labels = [row["label"] for row in figure.rows]
    lines = ["Spearman, 30 models", "Spearman, published", "Spearman, within depths", "Pearson, 30 models"]
    assert labels == lines * 2
    assert [row["_head"] for row in figure.rows if row["_head"]] == [
        "audio, against the best of image", "image, against the best of audio",
    ]  # fmt: skip
    published = [row for row in figure.rows if row["label"] == "Spearman, published"]
    assert [row["value"] for row in published] == [0.723, 0.887] and {row["ci_low"] for row in published} == {None}
    assert figure.title.startswith("AVMNIST") and "0 of 4 coefficients differ from 0" in figure.caption
    assert "AVMNIST" in figure.alt and figure.svg.startswith("<svg")
