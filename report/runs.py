"""Run folders as the report reads them: configuration and tidy scores, without models, features or torch."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from featcache.errors import UsageError
from featcache.trainer.errors import RunDamaged, RunMissing

FILES = ("config.json", "metrics.parquet", "map.parquet", "kernels.parquet")
ALIGNMENT = {"mutual_knn": "mutual-kNN", "cka": "linear CKA"}
RECALLS = ("R@1", "R@5", "R@10")


@dataclass(frozen=True)
class Score:
    """One row of metrics.parquet; None where the run measured no such number."""

    stage: str
    space: str
    against: str
    metric: str
    direction: str
    split: str
    epoch: int | None
    value: float
    n: int | None
    k: int | None
    chance: float | None
    null_low: float | None
    null_high: float | None
    ci_low: float | None
    ci_high: float | None
    w: float | None
    estimand: str | None


@dataclass(frozen=True)
class Side:
    """The features behind one role of a run ("x", "y" or "reference")."""

    view: str
    encoder: str
    layer: str
    digest: str
    root: str


@dataclass(frozen=True, eq=False)
class RunResults:
    """One run folder in memory.

    Args:
        path: The folder.
        label: What tells this run from the others of one report; the adapter's name where that is enough.
        config: config.json.
        scores: The rows of metrics.parquet.
        map: The rows of map.parquet: id, label, space, px, py.
        kernels: The rows of kernels.parquet: space, row, col, value.
    """

    path: Path
    label: str
    config: dict[str, Any]
    scores: tuple[Score, ...]
    map: list[dict[str, Any]]
    kernels: list[dict[str, Any]]

    def side(self, role: str) -> Side:
        """Returns the features behind "x", "y" or "reference"."""
        entry = self.config["features"][role]
        return Side(**{field.name: str(entry.get(field.name, "")) for field in fields(Side)})

    def names(self) -> dict[str, str]:
        """Returns a name for each role: the encoder, with layer, view or role added where that tells them apart."""
        sides = {role: self.side(role) for role in ("x", "y", "reference")}
        tries = (
            {role: side.encoder for role, side in sides.items()},
            {role: f"{side.encoder}/{side.layer}" for role, side in sides.items()},
            {role: f"{side.encoder}/{side.layer} ({side.view})" for role, side in sides.items()},
            {role: f"{role} {side.encoder}/{side.layer}" for role, side in sides.items()},
        )
        return next(names for names in tries if len(set(names.values())) == len(names))

    def directions(self) -> dict[str, str]:
        """Returns a readable name for "x→y" and "y→x": by view, or by encoder where the views share a name."""
        x, y = self.side("x"), self.side("y")
        a, b = (x.view, y.view) if x.view != y.view else (self.names()["x"], self.names()["y"])
        return {"x→y": f"{a} → {b}", "y→x": f"{b} → {a}"}

    def find(self, **wanted: Any) -> list[Score]:
        """Returns the scores whose columns equal `wanted`, in file order."""
        return [score for score in self.scores if all(getattr(score, key) == value for key, value in wanted.items())]

    def on_test(self, stage: str, space: str, metric: str, against: str = "reference") -> Score | None:
        """Returns the one alignment score of the test split, or None where the run has none."""
        scores = self.find(stage=stage, space=space, metric=metric, against=against, split="test")
        return scores[0] if scores else None

    @property
    def selected_epoch(self) -> int | None:
        """The epoch whose adapters were measured on the test split."""
        return self.config.get("selected_epoch")


def load_runs(runs: Sequence[Path | str | RunResults]) -> list[RunResults]:
    """Reads run folders and names each so that no two share a label.

    Args:
        runs: Run folders, or runs already loaded (returned as they are, relabelled among the others).

    Returns:
        One RunResults a folder, in the order given.

    Raises:
        RunMissing: If a folder is not there or `runs` is empty.
        RunDamaged: If a file, a column or the joint's test score is missing.
    """
    if not runs:
        raise RunMissing("a report needs at least one run folder\n  Run: featcache train --help")
    loaded = [run if isinstance(run, RunResults) else _load(Path(run)) for run in runs]
    return [replace(run, label=label) for run, label in zip(loaded, _labels(loaded), strict=True)]


def known_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """Returns the figure formats once each.

    Raises:
        UsageError: If one is neither "png" nor "svg".
    """
    unknown = [name for name in formats if name not in ("png", "svg")]
    if unknown:
        raise UsageError(f"no figure format {unknown[0]!r}\n  Known: png, svg")
    return tuple(dict.fromkeys(formats))


def _load(path: Path) -> RunResults:
    _require_files(path)
    import polars as pl

    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        tables = {name: pl.read_parquet(path / f"{name}.parquet") for name in ("metrics", "map", "kernels")}
    except (ValueError, OSError, pl.exceptions.PolarsError) as error:
        raise RunDamaged(
            f"a file of the run folder {path} cannot be read: {error}\n  Run: featcache train again with --overwrite"
        ) from error
    _require_columns(path, "metrics", tables["metrics"].columns, [field.name for field in fields(Score)])
    _require_columns(path, "map", tables["map"].columns, ["id", "label", "space", "px", "py"])
    _require_columns(path, "kernels", tables["kernels"].columns, ["space", "row", "col", "value"])
    columns = [field.name for field in fields(Score)]
    scores = tuple(Score(**_tidy(row)) for row in tables["metrics"].select(columns).to_dicts())
    run = RunResults(path, path.name, config, scores, tables["map"].to_dicts(), tables["kernels"].to_dicts())
    _require_rows(run)
    return run


def _tidy(row: dict[str, Any]) -> dict[str, Any]:
    # a writer may keep "not measured" as NaN in a float column; the report knows one spelling, None
    return {key: None if isinstance(value, float) and value != value else value for key, value in row.items()}


def _require_files(path: Path) -> None:
    if not path.is_dir():
        folder = path.parent if path.parent.is_dir() else Path()
        near = sorted(entry.name for entry in folder.iterdir() if (entry / "metrics.parquet").is_file())
        raise RunMissing(
            f"no run folder at {path}\n"
            f"  Run folders in {folder}: {', '.join(near[:8]) or 'none'}\n"
            "  Run: featcache train --help"
        )
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise RunDamaged(
            f"the folder {path} is not a whole run: {', '.join(missing)} missing\n"
            f"  It holds: {', '.join(sorted(entry.name for entry in path.iterdir())[:8]) or 'nothing'}\n"
            "  Run: featcache train again with --overwrite"
        )


def _require_columns(path: Path, table: str, have: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in have]
    if missing:
        raise RunDamaged(
            f"{path / table}.parquet lacks the columns {', '.join(missing)}\n"
            f"  It has: {', '.join(have)}\n"
            "  Run: featcache train again with --overwrite"
        )


def _require_rows(run: RunResults) -> None:
    roles = run.config.get("features", {})
    absent = [role for role in ("x", "y", "reference") if role not in roles]
    needed = (("raw", "x"), ("raw", "y"), ("trained", "x"), ("trained", "y"), ("trained", "joint"))
    absent += [
        f"{stage} {space}" for stage, space in needed if any(run.on_test(stage, space, m) is None for m in ALIGNMENT)
    ]
    if absent:
        raise RunDamaged(
            f"the run {run.path} has no {', '.join(absent)} (alignment with the reference, test split)\n"
            "  Run: featcache train again with --overwrite"
        )


def _labels(runs: Sequence[RunResults]) -> list[str]:
    adapters = [_adapter(run) for run in runs]
    counts = Counter(adapters)
    named = [
        adapter if counts[adapter] == 1 or adapter == run.path.name else f"{adapter} ({run.path.name})"
        for adapter, run in zip(adapters, runs, strict=True)
    ]
    counts = Counter(named)
    return [name if counts[name] == 1 else f"{name} #{1 + named[:i].count(name)}" for i, name in enumerate(named)]


def _adapter(run: RunResults) -> str:
    config = run.config.get("config", {})
    return str(config.get("adapter", run.path.name)) + (", pairs shuffled" if config.get("shuffle_pairs") else "")
