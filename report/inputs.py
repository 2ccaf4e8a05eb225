"""What a report is of: run folders, sweeps, ledgers and tables, each known by what it holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.errors import UsageError
from featcache.report.runs import RunResults, load_runs

if TYPE_CHECKING:
    import polars as pl

    from featcache.studies.experiments.written import SweepTables
    from featcache.studies.ledger.ledger import Entry

_OWN = ("ledger.parquet", "rows.parquet")  # names that only tables of a report have in the folder of a study
_DEPTH, _SWEEP_DEPTH = (
    4,
    3,
)  # folders between that of a study and a table or sweep of it, as in STUDY/ledger/PROFILE/FILE
_TEXT, _NUMBER, _COUNT, _TRUTH = "String", "Float64", "Int64", "Boolean"


@dataclass(frozen=True, eq=False)
class Ledger:
    """The claims of one table of a ledger.

    Args:
        path: The table.
        entries: Its rows, in their order.
    """

    path: Path
    entries: "list[Entry]"


@dataclass(frozen=True, eq=False)
class InputTable:
    """One table of a command.

    Args:
        kind: A name of KINDS.
        path: The file.
        rows: Its rows; has at least the columns of its kind.
    """

    kind: str
    path: Path
    rows: "pl.DataFrame"


@dataclass(frozen=True, eq=False)
class Inputs:
    """Everything that one report is of, each in the order given.

    Args:
        runs: Of the run folders.
        sweeps: Of the folders and tables of sweeps.
        ledgers: Of the tables of claims.
        tables: All others.
    """

    runs: list[RunResults] = field(default_factory=lambda: [])
    sweeps: "list[SweepTables]" = field(default_factory=lambda: [])
    ledgers: list[Ledger] = field(default_factory=lambda: [])
    tables: list[InputTable] = field(default_factory=lambda: [])

    def of_kind(self, kind: str) -> list[InputTable]:
        """The tables of one kind."""
        return [table for table in self.tables if table.kind == kind]


@dataclass(frozen=True)
class Kind:
    """A kind of table: what writes it, and the columns that it is known by.

    Args:
        what: In words, with the command.
        columns: Name -> polars type.
        only: Column -> value that all rows must have.
        files: Names of such tables in the folder of a study, which stands for them.
    """

    what: str
    columns: Mapping[str, str]
    only: Mapping[str, str] = field(default_factory=lambda: {})
    files: tuple[str, ...] = ()


_SWEEP = "of a sweep, whose sweep.json must lie beside it"
_SYNTHETIC, _DIAL = "featcache emergence synthetic", "featcache emergence captions or graded"
_SETTING = {"generator": _TEXT, "width": _COUNT, "architecture": _TEXT}
_LEVEL = {**_SETTING, "uniqueness": _COUNT}
_INFORMATION = [
    f"{name}_{part}" for name in ("broja", "common", "i_min") for part in ("redundancy", "unique", "synergy")
]
_LEDGER = {"claim": _TEXT, "estimator": _TEXT, "effect": _NUMBER, "verdict": _TEXT}
# the first that fits is taken
KINDS = {
    "points": Kind(f"points.parquet {_SWEEP}", {"plot": _TEXT, "y": _NUMBER, "rest": _TEXT}),
    "contrasts": Kind(
        f"contrasts.parquet {_SWEEP}", {"experiment": _TEXT, "run": _TEXT, "contrast": _TEXT, "verdict": _TEXT}
    ),
    "rows": Kind(f"rows.parquet {_SWEEP}", {"experiment": _TEXT, "run": _TEXT, "space": _TEXT, "value": _NUMBER}),
    "emergence claims": Kind(
        _SYNTHETIC, _LEDGER | {"published": _TEXT, "published_value": _NUMBER}, files=("ledger.parquet",)
    ),
    "ledger": Kind("featcache ledger", _LEDGER, files=("ledger.parquet",)),
    "maxima": Kind(
        _SYNTHETIC,
        {**_LEVEL, "metric": _TEXT, "phi_depth": _COUNT, "at_depth": _COUNT, "steps": _COUNT}
        | dict.fromkeys(("value", "population_maximum", "posterior_cka", *_INFORMATION), _NUMBER),
        files=("maxima.parquet",),
    ),
    "by depth": Kind(
        _SYNTHETIC,
        {**_LEVEL, "metric": _TEXT, "phi_depth": _COUNT, "depth": _COUNT}
        | dict.fromkeys(("value", "maximum", "accuracy", "bayes_accuracy"), _NUMBER),
        files=("by_depth.parquet",),
    ),
    "bias": Kind(
        _SYNTHETIC,
        {**_LEVEL, "metric": _TEXT, "phi_depth": _COUNT, "unit": _TEXT, "count": _COUNT}
        | dict.fromkeys(("estimate", "selected", "population"), _NUMBER),
        files=("bias.parquet",),
    ),
    "metric agreement": Kind(
        _SYNTHETIC,
        {**_LEVEL, "metric": _TEXT} | dict.fromkeys(("mean", "rank_correlation", "clipped", "missing"), _NUMBER),
        files=("metric_agreement.parquet",),
    ),
    "relations": Kind(
        _SYNTHETIC,
        {**_LEVEL, "models": _COUNT, "clusters": _COUNT, "group": _TRUTH}
        | dict.fromkeys(("question", "x", "y", "metric", "method", "phi_depths", "points", "clustered_by"), _TEXT)
        | dict.fromkeys(("value", "low", "high", "p"), _NUMBER),
        files=("relations.parquet",),
    ),
    "depth law": Kind(
        _SYNTHETIC,
        {**_LEVEL, "outcome": _TEXT, "term": _TEXT, "models": _COUNT, "parameters": _COUNT}
        | dict.fromkeys(("value", "low", "high", "p"), _NUMBER),
        files=("depth_law.parquet",),
    ),
    "together effects": Kind(
        "featcache emergence together",
        {"generator": _TEXT, "use": _TEXT, "side": _TEXT}
        | dict.fromkeys(("uniqueness", "phi_depth", "steps", "private", "labels", "seeds"), _COUNT)
        | dict.fromkeys(("lambda", "effect", "low", "high", "accuracy", "baseline"), _NUMBER),
        files=("effects.parquet",),
    ),
    "together kept": Kind(
        "featcache emergence together",
        {"generator": _TEXT, "kind": _TEXT, "probe": _TEXT, "used": _TRUTH}
        | dict.fromkeys(("uniqueness", "phi_depth", "steps", "private", "seed", "side", "bit"), _COUNT)
        | dict.fromkeys(("lambda", "accuracy"), _NUMBER),
        files=("kept.parquet",),
    ),
    "dial alignment": Kind(
        _DIAL,
        dict.fromkeys(("dial", "comparison", "dataset", "dose_words", "metric", "x_encoder", "y_encoder"), _TEXT)
        | {"dose": _NUMBER, "draw": _COUNT, "value": _NUMBER, "x_depth": _COUNT, "x_default": _TRUTH},
        files=("alignment.parquet",),
    ),
    "dial correlations": Kind(
        _DIAL,
        dict.fromkeys(("dial", "comparison", "dose_words", "view", "against", "x", "y", "metric", "method"), _TEXT)
        | dict.fromkeys(("dose", "value", "low", "high"), _NUMBER)
        | {"models": _COUNT, "clusters": _COUNT},
        files=("correlations.parquet",),
    ),
    "dial performance": Kind(
        _DIAL,
        dict.fromkeys(("dial", "side", "dose_words", "view", "encoder", "layer", "metric"), _TEXT)
        | {"dose": _NUMBER, "draw": _COUNT, "value": _NUMBER, "depth": _COUNT},
        files=("performance.parquet",),
    ),
    "dial bits": Kind(
        _DIAL,
        dict.fromkeys(("encoder", "view", "dose_words"), _TEXT)
        | {"dose": _NUMBER, "draw": _COUNT, "bits_per_byte": _NUMBER, "n": _COUNT},
        files=("bits.parquet",),
    ),
    "multibench": Kind(
        "featcache emergence multibench",
        {"dataset": _TEXT, "fixed": _TEXT, "varied": _TEXT, "fixed_depth": _COUNT, "n": _COUNT}
        | dict.fromkeys(("metric", "method", "verdict"), _TEXT)
        | dict.fromkeys(("value", "low", "high", "p_holm", "published"), _NUMBER)
        | dict.fromkeys(("within", "within_low", "within_high"), _NUMBER),
        files=("correlations.parquet",),
    ),
    "spoken digits": Kind(
        "featcache emergence spoken-digits",
        {"label": _TEXT, **dict.fromkeys(("named", "speakers", "models", "n", "k"), _COUNT)}
        | dict.fromkeys(("share", "broja_redundancy", "broja_unique2", "posterior_cka", "bayes_accuracy1"), _NUMBER)
        | dict.fromkeys(("cka_debiased", "cka_debiased_low", "cka_debiased_high", "cka_debiased_initial"), _NUMBER)
        | dict.fromkeys(("mutual_knn", "mutual_knn_low", "mutual_knn_high", "mutual_knn_initial"), _NUMBER)
        | dict.fromkeys(("accuracy1", "accuracy2"), _NUMBER),
        files=("dial.parquet",),
    ),
    "cost": Kind(
        "featcache cost",
        {"dataset": _TEXT, "view": _TEXT, "encoder": _TEXT, "device": _TEXT, "width": _COUNT, "parameters": _COUNT}
        | dict.fromkeys(("flops", "prepare_ms", "forward_ms"), _NUMBER),
    ),
    "competence": Kind(
        "featcache competence",
        {"dataset": _TEXT, "encoder": _TEXT, "metric": _TEXT, "value": _NUMBER, "performance": _NUMBER}
        | {"performance_of": _TEXT, "n": _COUNT, "k": _COUNT},
        files=("rows.parquet",),
    ),
    "probe": Kind(
        "featcache probe",
        dict.fromkeys(("command", "table", "dataset", "space", "against", "metric", "stage"), _TEXT)
        | dict.fromkeys(("value", "ci_low", "ci_high", "chance"), _NUMBER)
        | {"n": _COUNT, "k": _COUNT},
        {"command": "probe"},
    ),
    "grid": Kind(
        "featcache grid",
        dict.fromkeys(("dataset", "x_view", "x_encoder", "x_layer", "y_view", "y_encoder", "y_layer"), _TEXT)
        | dict.fromkeys(("metric", "convention", "pairing", "null", "backend"), _TEXT)
        | dict.fromkeys(("value", "chance", "p", "threshold", "null_low", "null_high", "seconds"), _NUMBER)
        | dict.fromkeys(("n", "d_x", "d_y", "k"), _COUNT)
        | {"best": _TRUTH, "higher_is_better": _TRUTH},
    ),
    "curve": Kind(
        "featcache curve",
        {"command": _TEXT, "metric": _TEXT, "size": _COUNT, "k": _COUNT, "repeat": _COUNT, "value": _NUMBER}
        | {"chance": _NUMBER, "short_rows": _COUNT, "queries": _COUNT}
        | dict.fromkeys(("dataset", "x_view", "x_encoder", "x_layer", "y_view", "y_encoder", "y_layer"), _TEXT),
        {"command": "curve"},
    ),
    "ceiling": Kind(
        "featcache ceiling",
        {"command": _TEXT, "kind": _TEXT, "source": _TEXT, "metric": _TEXT, "fold": _COUNT, "value": _NUMBER}
        | {"n": _COUNT, "chance": _NUMBER, "weight": _NUMBER}
        | dict.fromkeys(("dataset", "x_encoder", "y_encoder", "reference_encoder"), _TEXT),
        {"command": "ceiling"},
    ),
    "advise": Kind(
        "featcache advise",
        dict.fromkeys(("command", "table", "dataset", "label", "first", "second", "use", "answer", "quantity"), _TEXT)
        | dict.fromkeys(("entropy", "effect", "private_effect", "value", "low", "high"), _NUMBER)
        | {"labels": _COUNT},
        {"command": "advise"},
    ),
    "align": Kind(
        "featcache align",
        dict.fromkeys(("dataset", "space", "against", "metric", "interval", "x_view", "y_view"), _TEXT)
        | dict.fromkeys(("value", "chance", "null_low", "null_high", "ci_low", "ci_high"), _NUMBER)
        | {"n": _COUNT, "k": _COUNT},
    ),
}
ACCEPTED = "run folders; the folder or a table of a sweep; a study's folder; and tables of " + ", ".join(
    dict.fromkeys(kind.what for kind in KINDS.values() if kind.what.startswith("featcache"))
)


def read_inputs(paths: Sequence[Path | str]) -> Inputs:
    """Reads everything that a report is of.

    Args:
        paths: Run folders, folders of sweeps or of whole studies, and tables, in any order; what is named twice is read
            once.

    Raises:
        RunMissing: If there are no paths, or a folder is not there, or holds neither a run nor a sweep.
        RunDamaged: If a run folder is not whole.
        UsageError: If a table is not there, cannot be read, or is of no known kind; says which there are.
        BeyondLimit: If a file is larger than is read unasked.
    """
    from featcache.studies.experiments.written import read_sweep

    inputs = Inputs()
    folders: list[Path] = []
    for path in _once([place for named in paths for place in _places(Path(named))]):
        if path.suffix == ".parquet" or path.is_file():
            _add_file(inputs, path)
        elif _is_sweep(path):
            inputs.sweeps.append(read_sweep(path))
        else:
            folders.append(path)
    runs = load_runs(folders) if folders or not paths else []
    return Inputs(runs, inputs.sweeps, inputs.ledgers, inputs.tables)


def _once(paths: Sequence[Path]) -> list[Path]:
    """Each place once; a table of a sweep stands for its folder."""
    places = {path.resolve(): path for path in reversed(paths)}
    return [*dict.fromkeys(places[path.resolve()] for path in paths)]


def _is_sweep(path: Path) -> bool:
    from featcache.studies.experiments.written import is_sweep

    return is_sweep(path)


def _places(path: Path) -> list[Path]:
    """What a path stands for: itself, or the sweeps and tables below the folder of a study."""
    from featcache.trainer.run_search import is_run, no_run

    if path.suffix == ".parquet" or path.is_file():
        beside = path.parent
        # a table of a sweep is read with the others, whichever was named
        return [beside] if path.stem in ("points", "rows", "contrasts") and _is_sweep(beside) else [path]
    if not path.is_dir() or is_run(path) or _is_sweep(path):
        return [path]
    below = _below(path)
    if not below:
        raise no_run(path)
    return below


def _below(study: Path) -> list[Path]:
    """Folders of sweeps and the tables that a study's folder stands for, in it or below, each sorted; no runs."""
    from featcache.trainer.run_search import is_run

    depths = ["/".join("*" * depth) for depth in range(1, _DEPTH + 1)]
    sweeps = sorted({path for depth in depths[:_SWEEP_DEPTH] for path in study.glob(depth) if _is_sweep(path)})
    names = tuple(dict.fromkeys(name for kind in KINDS.values() for name in kind.files))
    every = (*names, *(f"{depth}/{name}" for depth in depths for name in names))
    tables = sorted({path for pattern in every for path in study.glob(pattern) if not is_run(path.parent)})
    return [*sweeps, *(path for path in tables if path.parent not in sweeps and _named_rightly(path))]


def _named_rightly(path: Path) -> bool:
    """Whether a table found by its name is of a kind of that name, or of no command of which others share the name."""
    from featcache.studies.tables import read_table

    if path.name in _OWN:
        return True
    kind = kind_of(read_table(path))
    return kind is not None and path.name in KINDS[kind].files


def _add_file(inputs: Inputs, path: Path) -> None:
    from featcache.studies.tables import read_table

    rows = read_table(path)
    kind = kind_of(rows)
    if kind is None:
        raise UsageError(
            f"{path} is a table of no known kind; its columns: {', '.join(rows.columns[:12])}\n"
            f"  A report is of {ACCEPTED}"
        )
    _ADD.get(kind, _add_table)(inputs, kind, path, rows)


def kind_of(rows: "pl.DataFrame") -> str | None:
    """The kind of a table by its columns, a name of KINDS; None for none of them."""
    return next((name for name, kind in KINDS.items() if _fits(rows, kind)), None)


def _fits(rows: "pl.DataFrame", kind: Kind) -> bool:
    if any(str(rows.schema.get(name)) not in (of, "Null") for name, of in kind.columns.items()):
        return False
    return all(rows[name].unique().to_list() == [value] for name, value in kind.only.items())


def _add_table(inputs: Inputs, kind: str, path: Path, rows: "pl.DataFrame") -> None:
    import polars as pl

    # a column without any value has no type of its own
    wanted = {name: getattr(pl, of) for name, of in KINDS[kind].columns.items()}
    inputs.tables.append(
        InputTable(kind, path, rows.with_columns(pl.col(name).cast(of) for name, of in wanted.items()))
    )


def _add_ledger(inputs: Inputs, kind: str, path: Path, rows: "pl.DataFrame") -> None:
    from featcache.studies.ledger.ledger import entries_of

    inputs.ledgers.append(Ledger(path, entries_of(rows, path)))


def _refuse_part(inputs: Inputs, kind: str, path: Path, rows: "pl.DataFrame") -> None:
    raise UsageError(f"{path} holds the {kind} of a sweep, and no sweep.json lies beside it\n  Name the sweep's folder")


_ADD: dict[str, Callable[[Inputs, str, Path, "pl.DataFrame"], None]] = {
    "ledger": _add_ledger,
    **dict.fromkeys(("points", "contrasts", "rows"), _refuse_part),
}
