"""Correlations of alignment and performance on MultiBench: pairs of modalities in both directions, with intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from blake3 import blake3

from featcache.devices import check_device
from featcache.errors import UsageError
from featcache.metrics.certainty.clustered import Method, clustered_correlation
from featcache.metrics.measure.contrasts import holm
from featcache.metrics.sweeps.released_layers import ReleasedLayer, released_layer, released_scores
from featcache.storage.outputs import parquet_bytes, write_output
from featcache.studies.emergence.multibench.models import (
    Block,
    cost,
    data_digest,
    load_ensemble,
    open_data,
    run_block,
    sequence_rows,
)
from featcache.studies.emergence.multibench.protocol import (
    LEAST_MODELS,
    PUBLISHED_METHOD,
    PUBLISHED_METRIC,
    MultiBenchSettings,
    protocol_of,
    published_correlation,
)
from featcache.studies.emergence.pool import OnProgress, Work, run_blocks
from featcache.studies.tables import read_table

if TYPE_CHECKING:
    import polars as pl

METRICS = ("cka_clipped", "cka_debiased", "mutual_knn")
METHODS: tuple[Method, ...] = get_args(Method)
ALPHA = 0.05
TABLES = ("models", "alignment", "correlations")
_TRAINING = 0.9  # share of the time of all


@dataclass(frozen=True)
class Cell:
    """One cell of the table: alignment with the best model of one modality against how well models of another do.

    Args:
        dataset: Name of the data set.
        fixed: The modality whose best model, by validation, is the reference.
        varied: The modality whose models are varied.
        fixed_depth: Layers of the reference.
        fixed_seed: Its base seed.
        metric: Of alignment, the maximum over pairs of layers.
        method: "pearson" or "spearman".
        value: Correlation of alignment with test performance; None where too few models are behind it.
        low: Lower end of the 95 % interval, over depths.
        high: Upper end.
        p: Two-sided.
        p_holm: After Holm's correction over the cells of one metric and method.
        cells: These.
        verdict: "above", "below" or "cannot tell".
        within: The correlation within depths, over seeds alone: what a common drift with depth cannot make.
        within_low: Lower end of its interval.
        within_high: Upper end.
        n: Models.
        depths: Clusters of models.
        rows: Test rows that alignment is measured on.
        note: Why there is no coefficient or no interval, or "".
        published: The published coefficient (Spearman, clipped CKA), or None.
    """

    dataset: str
    fixed: str
    varied: str
    fixed_depth: int
    fixed_seed: int
    metric: str
    method: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    cells: int = 0
    verdict: str = ""
    within: float | None = None
    within_low: float | None = None
    within_high: float | None = None
    n: int = 0
    depths: int = 0
    rows: int = 0
    note: str = ""
    published: float | None = None


@dataclass(frozen=True, eq=False)
class MultiBenchTables:
    """The tables of one data set.

    Args:
        folder: Where they lie.
        models: One row a model.
        alignment: One row a reference, varied model, pair of layers and metric.
        correlations: One row a `Cell`.
    """

    folder: Path
    models: "pl.DataFrame"
    alignment: "pl.DataFrame"
    correlations: "pl.DataFrame"


def run_multibench(
    name: str,
    root: Path,
    folder: Path,
    settings: MultiBenchSettings | None = None,
    *,
    processes: int | None = 0,
    on_progress: OnProgress | None = None,
) -> MultiBenchTables:
    """Trains encoders of every modality and depth, and measures the table; blocks that are there are kept.

    Args:
        name: A key of `featcache.data.multibench.PUBLISHED`.
        root: Where its files lie.
        folder: Gets models.parquet, alignment.parquet, correlations.parquet, and blocks/ with the weights by depth.
        settings: None for the protocol of the study.
        processes: At a time, of one thread each, each with the data in memory; 0 works in this process; None: one a
            core.
        on_progress: Called with the share that is done.

    Raises:
        UsageError: If there is no such name or device, or the test split has too few rows for k.
        DataMissing, DataInvalid: As `load_multibench`.
        OutputFailed: If the folder cannot be written.

    Source:
        Tjandrasuwita et al. 2025, arXiv:2502.16282, section 5.
    """
    settings = settings or MultiBenchSettings()
    protocol, root = protocol_of(name), root.resolve()
    check_device(settings.device)
    data = open_data(name, root, settings.validation_rows)
    rows = min(settings.rows, len(data.splits["test"]))
    if rows < max(4, settings.k + 1):
        raise UsageError(f"{name}: {rows} test rows are too few for alignment with k = {settings.k}; lower k")
    blocks = [
        Block(name, root, data_digest(data, modality), settings, modality, depth)
        for modality in protocol.rates
        for depth in settings.depths
    ]
    report = on_progress or (lambda share, done: None)
    work = Work(run_block, lambda block: block.folder, cost)
    run_blocks(work, blocks, folder, processes, lambda share, done: report(_TRAINING * share, done))
    models = _of_blocks(blocks, folder, "models")
    alignment = _aligned(blocks, models, folder, lambda share, done: report(_TRAINING + 0.1 * share, done))
    tables = MultiBenchTables(folder, models, alignment, correlations(models, alignment))
    for table in TABLES:
        write_output(folder / f"{table}.parquet", parquet_bytes(getattr(tables, table)))
    report(1.0, "")
    return tables


def read_multibench(folder: Path) -> MultiBenchTables:
    """The tables of a data set, as `run_multibench` wrote them.

    Raises:
        UsageError: If one is missing, cannot be read, or lacks a column.
    """
    tables = {name: read_table(folder / f"{name}.parquet") for name in TABLES}
    lacking = [each.name for each in fields(Cell) if each.name not in tables["correlations"].columns]
    if lacking:
        raise UsageError(
            f"{folder}: correlations.parquet lacks {', '.join(lacking)}\n  Run: featcache emergence multibench NAME"
        )
    return MultiBenchTables(folder, **tables)


def correlations(models: "pl.DataFrame", alignment: "pl.DataFrame") -> "pl.DataFrame":
    """A row for every reference, varied modality, metric and coefficient; intervals are over depths.

    Models of one depth resemble each other, so a depth is a cluster, and the interval is that of
    `clustered_correlation`. It takes depths to be independent: where alignment and performance both drift with depth
    for reasons of their own, a true 0 is missed in a tenth to a quarter of all cases (simulated, docs/emergence.md), so
    the coefficient within depths stands beside. No coefficient is given from fewer than 12 models.

    Args:
        models: Of `run_multibench`.
        alignment: Of `run_multibench`.
    """
    import polars as pl

    keys = ("dataset", "fixed", "varied", "fixed_depth", "fixed_seed", "metric")
    best = alignment.group_by(*keys, "depth", "seed", maintain_order=True).agg(
        pl.col("value").max(), pl.col("n").first().alias("rows")
    )
    scores = models.select("dataset", "depth", "seed", "test_performance", varied="modality")
    joined = best.join(scores, on=["dataset", "varied", "depth", "seed"], how="left", maintain_order="left")
    cells: list[Cell] = []
    for key, part in joined.group_by(*keys, maintain_order=True):
        cells += [_cell(Cell(*key, method=method), part) for method in METHODS]
    return cells_table(with_holm(cells))


def with_holm(cells: Sequence[Cell]) -> list[Cell]:
    """Cells with p after Holm's correction over those of one metric and method, and what follows.

    Give those of several data sets to correct over all of them.
    """
    corrected = list(cells)
    for metric, method in dict.fromkeys((cell.metric, cell.method) for cell in cells):
        places = [place for place, cell in enumerate(cells) if (cell.metric, cell.method) == (metric, method)]
        tested = [(place, p) for place in places if (p := cells[place].p) is not None]
        for (place, _), p_holm in zip(tested, holm([p for _, p in tested]), strict=True):
            value = cells[place].value or 0.0
            verdict = "cannot tell" if p_holm > ALPHA or not value else "above" if value > 0 else "below"
            corrected[place] = replace(cells[place], p_holm=p_holm, cells=len(tested), verdict=verdict)
    return [replace(cell, verdict=cell.verdict or "cannot tell") for cell in corrected]


def cells_of(frame: "pl.DataFrame") -> list[Cell]:
    """The cells of a table."""
    names = [each.name for each in fields(Cell)]
    return [Cell(**row) for row in frame.select(names).iter_rows(named=True)]


def cells_table(cells: Sequence[Cell]) -> "pl.DataFrame":
    """A table of cells."""
    import polars as pl

    kinds = {"str": pl.String, "int": pl.Int64, "float": pl.Float64}
    schema = {each.name: kinds[next(kind for kind in kinds if kind in str(each.type))] for each in fields(Cell)}
    return pl.DataFrame([asdict(cell) for cell in cells], schema=schema)


def _cell(blank: Cell, part: "pl.DataFrame") -> Cell:
    known = published_correlation(blank.dataset, blank.fixed, blank.varied)
    shown = blank.metric == PUBLISHED_METRIC and blank.method == PUBLISHED_METHOD
    part = part.filter(part["value"].is_not_null() & part["test_performance"].is_not_null())
    depths = part["depth"].n_unique()
    rows = int(part["rows"][0]) if len(part) else 0
    counted = replace(blank, n=len(part), depths=depths, rows=rows, published=known if shown else None)
    if len(part) < LEAST_MODELS:
        return replace(counted, note=f"{len(part)} models: no coefficient below {LEAST_MODELS}")
    columns = (part[name].to_numpy() for name in ("value", "test_performance", "depth"))
    aligned, performance, of = columns
    method: Method = "spearman" if blank.method == "spearman" else "pearson"
    found = clustered_correlation(aligned, performance, of, method=method)
    within = clustered_correlation(aligned, performance, of, blocks=of, method=method)
    ends = {"value": found.value, "low": found.low, "high": found.high, "p": found.p, "note": found.note}
    return replace(counted, **ends, within=within.value, within_low=within.low, within_high=within.high)


def _of_blocks(blocks: Sequence[Block], folder: Path, table: str) -> "pl.DataFrame":
    import polars as pl

    return pl.concat([read_table(folder / "blocks" / block.folder / f"{table}.parquet") for block in blocks])


def best_model(models: "pl.DataFrame", modality: str, seeds: Sequence[int]) -> tuple[int, int]:
    """Depth and base seed of the model of a modality that does best on validation rows.

    Of equals it is the first, by seed and then by depth, as the released code has it.

    Args:
        models: Of `run_multibench`.
        modality: Which.
        seeds: In their order.
    """
    rows = models.filter(modality=modality).select("seed", "depth", "valid_performance").rows()
    seed, depth, _ = min(rows, key=lambda row: (-row[2], seeds.index(row[0]), row[1]))
    return depth, seed


# --- alignment


def _alignment_schema() -> dict[str, Any]:
    import polars as pl

    words = ("dataset", "fixed", "varied", "metric")
    names = ("dataset", "fixed", "fixed_depth", "fixed_seed", "varied", "depth", "seed", "metric", "layer0", "layer1")
    kinds = {name: pl.String if name in words else pl.Int64 for name in names}
    return kinds | {"value": pl.Float64, "n": pl.Int64, "k": pl.Int64}


def _aligned(blocks: Sequence[Block], models: "pl.DataFrame", folder: Path, on_progress: OnProgress) -> "pl.DataFrame":
    """Alignment of every reference with every model of another modality; a table a pair and depth is kept."""
    import polars as pl

    settings, frames = blocks[0].settings, []
    of = {(block.modality, block.depth): block for block in blocks}
    modalities = [*dict.fromkeys(block.modality for block in blocks)]
    pairs = [(*pair, depth) for pair in permutations(modalities, 2) for depth in settings.depths]
    for place, (fixed, varied, depth) in enumerate(pairs):
        best_depth, seed = best_model(models, fixed, settings.seeds)
        reference, block = of[fixed, best_depth], of[varied, depth]
        identity = f"{reference.folder} {seed} {block.folder} {settings.quantile} {settings.rows} {settings.k}"
        name = f"{fixed}-{block.modality}-depth{depth}-{blake3(identity.encode()).hexdigest()[:12]}.parquet"
        path = folder / "pairs" / name
        if not path.is_file():
            frame = pl.DataFrame([*_pair_rows(reference, seed, block, folder)], schema=_alignment_schema())
            write_output(path, parquet_bytes(frame))
        frames.append(read_table(path))
        on_progress((place + 1) / len(pairs), name)
    return pl.concat(frames)


def _pair_rows(reference: Block, seed: int, block: Block, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of one reference against every member of a block."""
    settings = block.settings
    ours = _reference(reference, seed, folder)
    for base, theirs in zip(settings.seeds, _layers(block, folder), strict=True):
        keys = {
            "dataset": block.name, "fixed": reference.modality, "fixed_depth": reference.depth, "fixed_seed": seed,
            "varied": block.modality, "depth": block.depth, "seed": base, "n": theirs[0].rows,
        }  # fmt: skip
        for layer0, a in enumerate(ours, start=1):
            for layer1, b in enumerate(theirs, start=1):
                for metric, score in released_scores(a, b).items():
                    row = {**keys, "layer0": layer0, "layer1": layer1, "metric": metric, "value": score}
                    yield row | {"k": settings.k if metric == "mutual_knn" else None}


@lru_cache(maxsize=1)
def _reference(block: Block, seed: int, folder: Path) -> list[ReleasedLayer]:
    """Every layer of one member, ready to be compared."""
    return _layers(block, folder)[block.settings.seeds.index(seed)]


def _layers(block: Block, folder: Path) -> list[list[ReleasedLayer]]:
    """[member][layer] pooled outputs of the first test rows, ready to be compared."""
    from featcache.trainer.ensembles.sequences import hidden_of

    settings = block.settings
    data = open_data(block.name, block.root, settings.validation_rows)
    rows = sequence_rows(data.splits["test"], block.modality, settings.device, most=settings.rows)
    layers = [layer.cpu().numpy() for layer in hidden_of(load_ensemble(block, folder), rows)]
    return [
        [released_layer(layer[member], k=settings.k, quantile=settings.quantile) for layer in layers]
        for member in range(len(layers[0]))
    ]
