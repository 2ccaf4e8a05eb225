"""Run folders as the report reads them: configuration, scores and contrasts."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.errors import UsageError
from featcache.trainer.kinds import HYPERPARAMETERS, SOLVED_KINDS

if TYPE_CHECKING:
    from featcache.metrics.measure.row import ContrastRow, Row

RECALLS = ("R@1", "R@5", "R@10")
REFERENCE = "reference"
_TITLES = {"mutual_knn": "mutual-kNN", "cka_debiased": "debiased CKA", "cka_linear": "linear CKA"}
_NO_ALIGNMENT = frozenset({"loss", "centroid_gap", "distribution_gap", "intrinsic_dimension"})


@dataclass(frozen=True, eq=False)
class RunResults:
    """One run folder in memory, or several that differ in their seed only (see `featcache.report.seeds`).

    Args:
        path: The folder; of several runs, that of the first.
        label: What tells this run from the others of one report; the adapter's name where that is enough.
        config: config.json, in the words of format 2; of several runs, that of the first.
        format: Of the folder: 1 (featcache 0.1) or 2.
        scores: The rows of metrics.parquet that have a value.
        contrasts: The rows of contrasts.parquet.
        map: The rows of map.parquet: id, label, space, px, py.
        kernels: The rows of kernels.parquet: space, row, col, value.
        seeds: The runs behind this one where there are several, else none.
    """

    path: Path
    label: str
    config: dict[str, Any]
    format: int
    scores: "tuple[Row, ...]"
    contrasts: "tuple[ContrastRow, ...]"
    map: list[dict[str, Any]]
    kernels: list[dict[str, Any]]
    seeds: "tuple[RunResults, ...]" = ()
    _drawn: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {}, repr=False)

    def drawn(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table that only figures read, when they are first asked for; of several seeds the first's.

        Args:
            name: One of `featcache.trainer.run_files.PICTURES`.

        Returns:
            None of a run that was written before there was such a table.

        Raises:
            RunDamaged: If the table cannot be read, or is not of its form.
        """
        from featcache.trainer.run_files import read_table
        from featcache.trainer.run_search import find_run

        if name not in self._drawn:
            find_run(self.path)  # its files are still those that were loaded
            self._drawn[name] = read_table(self.path, name, self.format).to_dicts()
        return self._drawn[name]

    @property
    def each(self) -> "tuple[RunResults, ...]":
        """The runs of single seeds: this one, or those behind it."""
        return self.seeds or (self,)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of its training."""
        return self.config.get("config", {})

    @property
    def sides(self) -> list[str]:
        """Names of the sides, in their order."""
        return [*self.config["sides"]]

    @property
    def reference(self) -> dict[str, Any] | None:
        """The features of the reference as config.json has them, or None where there is none."""
        return self.config.get("reference")

    @property
    def drawn_epoch(self) -> int | None:
        """The epoch that was selected in the run of which maps and kernels are: this one, or the first seed's."""
        return self.each[0].selected_epoch

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each two sides, as rows of one side against another name them."""
        return [*combinations(self.sides, 2)]

    @property
    def is_control(self) -> bool:
        """Whether its training pairs were shuffled across groups."""
        return bool(self.settings.get("shuffle_pairs"))

    @property
    def solved(self) -> bool:
        """Whether its adapters were solved in closed form: there are no epochs."""
        return self.settings.get("adapter") in SOLVED_KINDS

    @property
    def selected_epoch(self) -> int | None:
        """The epoch whose adapters were measured on the test split; None for several seeds."""
        return None if self.seeds else self.config.get("selected_epoch")

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics of alignment that the test split was measured with; the first is the one to be spoken of."""
        joint = {"space": "joint", "against": REFERENCE} if self.reference else {}
        rows = self.find(stage="trained", split="test", direction="", **joint)
        return list(dict.fromkeys(row.metric for row in rows if row.metric not in _NO_ALIGNMENT))

    def names(self) -> dict[str, str]:
        """A name for each side, and for "reference" where there is one.

        A side's is its own name, with the encoder where it does not hold it; the reference's is its encoder, with layer
        and view where a side has the same.
        """
        sides = self.config["sides"]
        names = {name: name if one["encoder"] in name else f"{name} ({one['encoder']})" for name, one in sides.items()}
        if self.reference:
            names[REFERENCE] = _reference_name(self.reference, [*sides.values()])
        return names

    def space_name(self, space: str) -> str:
        """What a reader calls a side or a joint space.

        Of two sides there is "joint"; of more, "joint of all" and "joint of a and b".
        """
        if space.startswith("joint:"):
            return f"joint of {' and '.join(space.removeprefix('joint:').split('+'))}"
        if space == "joint" and len(self.sides) > 2:
            return "joint of all"
        return self.names().get(space, space)

    def joints(self) -> list[str]:
        """Names of the joint spaces: of all sides, then of pairs where they were measured."""
        rows = self.find(stage="trained", split="test", against=REFERENCE)
        return list(dict.fromkeys(["joint", *(row.space for row in rows if row.space.startswith("joint:"))]))

    def directions(self) -> dict[str, str]:
        """A readable name for each direction of retrieval, "a→b"."""
        rows = dict.fromkeys(row.direction for row in self.scores if row.direction)
        return {direction: direction.replace("→", " → ") for direction in rows}

    def find(self, **columns: Any) -> "list[Row]":
        """The scores whose columns equal those given, in file order."""
        among = self.scores
        if "metric" in columns and "split" in columns:
            among = self._by_metric.get((columns.pop("metric"), columns.pop("split")), ())
        return [row for row in among if all(getattr(row, key) == value for key, value in columns.items())]

    @cached_property
    def _by_metric(self) -> "dict[tuple[str, str], list[Row]]":
        """The scores of each metric and split, in file order: what most look-ups ask for."""
        rows: dict[tuple[str, str], list[Row]] = {}
        for row in self.scores:
            rows.setdefault((row.metric, row.split), []).append(row)
        return rows

    def on_test(
        self, stage: str, space: str, metric: str, against: str = REFERENCE, split: str = "test"
    ) -> "Row | None":
        """The one alignment score of the test split (or its clean part), or None where the run has none."""
        rows = self.find(stage=stage, space=space, metric=metric, against=against, split=split)
        return rows[0] if rows else None


def load_runs(runs: Sequence[Path | str | RunResults]) -> list[RunResults]:
    """Reads run folders and names each so that no two share a label.

    Args:
        runs: Run folders, or runs already loaded; where all are loaded, they are returned as they are.

    Returns:
        One RunResults a folder, in the order given.

    Raises:
        RunMissing: If a folder is not there or `runs` is empty.
        RunDamaged: If a file, a column or the joint's test score is missing, or a file was changed.
    """
    from featcache.trainer.errors import RunMissing

    if not runs:
        raise RunMissing("a report needs at least one run folder\n  Run: featcache train --help")
    loaded = [run if isinstance(run, RunResults) else _load(Path(run)) for run in runs]
    if all(isinstance(run, RunResults) for run in runs):
        return loaded
    labels = unique_labels([adapter_name(run) for run in loaded], loaded)
    return [replace(run, label=label) for run, label in zip(loaded, labels, strict=True)]


def known_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """The figure formats once each.

    Raises:
        UsageError: If one is neither "png" nor "svg".
    """
    unknown = [name for name in formats if name not in ("png", "svg")]
    if unknown:
        raise UsageError(f"no figure format {unknown[0]!r}\n  Known: png, svg")
    return tuple(dict.fromkeys(formats))


def metrics_of(runs: Sequence[RunResults]) -> list[str]:
    """The metrics of alignment that any of the runs was measured with."""
    return list(dict.fromkeys(metric for run in runs for metric in run.metrics))


def metric_title(metric: str) -> str:
    """What a reader calls a metric.

    Example:
        >>> metric_title("cka_debiased"), metric_title("svcca")
        ('debiased CKA', 'svcca')
    """
    return _TITLES.get(metric, metric.replace("_", " "))


def number(row: "Row") -> float:
    """The value of a row; runs hold only rows that have one."""
    assert row.value is not None
    return row.value


def mixture_text(row: "Row") -> str:
    """The weights of a mixture in words, or "".

    Example:
        >>> from featcache.metrics.measure.row import Row
        >>> mixture_text(Row("mixed", "reference", "mutual_knn", 0.5, weights='{"images": 0.95, "captions": 0.05}'))
        'images 0.95, captions 0.05'
    """
    return ", ".join(f"{side} {weight:.2f}" for side, weight in json.loads(row.weights or "{}").items())


def adapter_name(run: RunResults) -> str:
    """The adapter of a run, or of each side, and whether its pairs were shuffled."""
    adapter = run.settings.get("adapter", run.path.name)
    if isinstance(adapter, dict):
        adapter = ", ".join(f"{side} {kind}" for side, kind in adapter.items())
    return ", ".join([str(adapter), *training_choices(run.settings), *(["pairs shuffled"] if run.is_control else [])])


def solution_text(chosen: Mapping[str, Any]) -> str:
    """The hyper-parameters of a closed form in words.

    Example:
        >>> solution_text({"regularization": 0.1, "dimensions": 64, "score": 0.5, "candidates": 30})
        'regularization 0.1, dimensions 64'
    """
    return ", ".join(f"{name} {value:g}" for name, value in chosen.items() if name in HYPERPARAMETERS)


def training_choices(settings: Mapping[str, Any]) -> list[str]:
    """What a training chose other than the default of its loss, regularisers and joint space, in words.

    Example:
        >>> training_choices({"loss": "siglip", "mixup": True, "keep_geometry": 10.0, "joint": "sum"})
        ['siglip', 'mixup', 'keep-geometry 10']
    """
    loss, joint = settings.get("loss", "infonce"), settings.get("joint", "sum")
    numbers = {name: settings.get(name) for name in ("temperature", "label_smoothing", "keep_geometry")}
    return [
        *([loss] if loss != "infonce" else []),
        *(["mixup"] if settings.get("mixup") else []),
        *(f"{name.replace('_', '-')} {value:g}" for name, value in numbers.items() if value),
        *([f"joint {joint}"] if joint != "sum" else []),
    ]


def unique_labels(names: Sequence[str], runs: Sequence[RunResults]) -> list[str]:
    """The names, with the folder and then a number added to those that would not be unique."""
    counts = Counter(names)
    named = [
        name if counts[name] == 1 or name == run.path.name else f"{name} ({run.path.name})"
        for name, run in zip(names, runs, strict=True)
    ]
    counts = Counter(named)
    return [name if counts[name] == 1 else f"{name} #{1 + named[:i].count(name)}" for i, name in enumerate(named)]


def _load(path: Path) -> RunResults:
    from featcache.metrics.measure.row import ContrastRow, Row
    from featcache.trainer.errors import RunDamaged
    from featcache.trainer.run_files import read_table
    from featcache.trainer.run_search import find_run

    config, version = find_run(path)
    tables = {name: read_table(path, name, version).to_dicts() for name in ("metrics", "contrasts", "map", "kernels")}
    scores = [Row(**row) for row in tables["metrics"]]
    run = RunResults(
        path=path,
        label=path.name,
        config=config,
        format=version,
        scores=tuple(row for row in scores if row.value is not None),
        contrasts=tuple(ContrastRow(**row) for row in tables["contrasts"]),
        map=tables["map"],
        kernels=tables["kernels"],
    )
    if not run.metrics:
        what = "trained joint (alignment with the reference" if run.reference else "trained sides (alignment"
        raise RunDamaged(f"the run {path} has no {what}, test split)\n  Train it again with --overwrite")
    return run


def _reference_name(reference: dict[str, Any], sides: Sequence[dict[str, Any]]) -> str:
    encoder, layer = reference["encoder"], reference["layer"]
    if all(side["encoder"] != encoder for side in sides):
        return encoder
    if all((side["encoder"], side["layer"]) != (encoder, layer) for side in sides):
        return f"{encoder}/{layer}"
    return f"{encoder}/{layer} ({reference['view']})"
