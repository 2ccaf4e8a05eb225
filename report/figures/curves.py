"""Figures over epochs: alignment, loss and retrieval."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from featcache.report.figures import charts, theme
from featcache.report.figures.figure import Figure, columns_for, shorten
from featcache.report.runs import REFERENCE, RunResults, metric_title, metrics_of, number
from featcache.report.sentences import listed

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row

Rows = list[dict[str, Any]]
LOSS = "loss, nats below a guess\namong the batch (0 = chance)"
_OLD_LOSS = "loss, nats a pair\n(depends on the batch size)"
_LONGEST_LABEL = 30
_CHANCE = ("#8f959b", theme.MUTED)


def alignment_over_epochs(runs: Sequence[RunResults]) -> Figure | None:
    """Draws agreement with the reference over epochs, raw features as dashed constants; None without epochs.

    Runs without a reference show the agreement of their sides.
    """
    panels, titles = [], []
    runs = _by_steps(runs)
    several = len(runs) > 1
    for metric in metrics_of(runs):
        for run in runs:
            rows = _alignment_rows(run, metric)
            if any(row["_share"] == "line" for row in rows):
                panels.append((run.label if several else "", rows))
                titles.append(metric_title(metric))
    if not panels:
        return None
    caption = _peaks(runs)
    with_reference = any(run.reference for run in runs)
    what = "with the reference" if with_reference else "of the sides with each other"
    solid = "the joint space and its adapted sides" if with_reference else "adapted sides"
    return Figure(
        "alignment_over_epochs",
        f"Agreement {what} over epochs",
        f"{caption}Validation split{_sizes(runs)}. Solid: {solid} (epoch 0 is untrained); dashed: raw features, and "
        f"chance in grey.{_notes(runs)}",
        f"Lines of {' and '.join(dict.fromkeys(titles))} {what} over epochs. {caption}",
        _written(panels),
        charts.epochs(panels, columns=columns_for(len(runs), panels_of_one=2), y_titles=titles),
    )


def loss_over_epochs(runs: Sequence[RunResults]) -> Figure | None:
    """Draws the training loss, and the validation loss where the run measured it; None without either."""
    panels, titles = [], []
    runs = _by_steps(runs)
    for run in runs:
        rows: Rows = []
        for split, colours in (("train", (theme.INK, theme.INK)), ("validation", theme.series(1))):
            rows += [_point(run, split, row, colours) for row in _curve(run, metric="loss", split=split)]
        if rows:
            panels.append((run.label if len(runs) > 1 else "", rows + _kept(run)))
            titles.append(_OLD_LOSS if run.format == 1 else LOSS)
    if not panels:
        return None
    caption = _falls(runs)
    return Figure(
        "loss_over_epochs",
        "Loss over epochs",
        f"{caption}{_units(titles)}; lower is better.{_notes(runs)}",
        f"Lines of the training loss over epochs. {caption}",
        _written(panels),
        charts.epochs(panels, columns=columns_for(len(runs)), y_titles=titles),
    )


def retrieval_over_epochs(runs: Sequence[RunResults]) -> Figure | None:
    """Draws R@10 on validation over epochs in every direction, chance dashed; None without epochs."""
    panels = []
    runs = _by_steps(runs)
    for run in runs:
        rows: Rows = []
        for place, (direction, name) in enumerate(run.directions().items()):
            curve = _curve(run, metric="R@10", split="validation", direction=direction)
            rows += [_point(run, shorten(name, _LONGEST_LABEL), row, theme.series(place)) for row in curve]
            rows += _chance(run, f"chance {name}", curve)
        if rows:
            panels.append((run.label if len(runs) > 1 else "", _merge_chance(rows) + _kept(run)))
    if not panels:
        return None
    caption = _best_recalls(runs)
    return Figure(
        "retrieval_over_epochs",
        "Retrieval over epochs",
        f"{caption}R@10 is the share of validation queries with a right answer among the ten nearest; epoch 0 is "
        f"untrained.{_notes(runs)}",
        f"Lines of R@10 over epochs in every direction. {caption}",
        _written(panels),
        charts.epochs(panels, columns=columns_for(len(runs)), y_titles=["R@10, validation"] * len(panels)),
    )


@dataclass(frozen=True)
class PathPoint:
    """One epoch on validation: mean R@10 of all directions, and the joint's alignment with the reference."""

    epoch: int
    retrieval: float
    alignment: float


def retrieval_path(run: RunResults) -> list[PathPoint]:
    """Retrieval and alignment of every epoch on validation; [] without a reference or epochs."""
    if not run.reference or run.solved:
        return []
    aligned = _curve(run, metric=run.metrics[0], split="validation", space="joint", against=REFERENCE)
    recalls: dict[int, list[float]] = {}
    for direction in run.directions():
        for row in _curve(run, metric="R@10", split="validation", direction=direction):
            recalls.setdefault(row.epoch or 0, []).append(number(row))
    return [
        PathPoint(row.epoch or 0, fmean(recalls[row.epoch or 0]), number(row))
        for row in aligned
        if row.epoch or 0 in recalls
    ]


def alignment_against_retrieval(runs: Sequence[RunResults]) -> Figure | None:
    """Draws the path of each run over its epochs: retrieval across, alignment with the reference up; None without."""
    rows: Rows = []
    for place, run in enumerate(runs):
        for point in retrieval_path(run):
            kept = point.epoch == run.selected_epoch
            words = f"{run.label}, epoch {point.epoch}: R@10 {point.retrieval:.3f}, alignment {point.alignment:.3f}"
            rows.append(
                {"run": run.label, "epoch": point.epoch, "retrieval": point.retrieval, "alignment": point.alignment}
                | {"kept": kept, "_colour": theme.series(place)[0], "_text": theme.series(place)[1], "_tip": words}
            )
    if not rows:
        return None
    metric = metric_title(runs[0].metrics[0])
    kept = " The ring marks the epoch kept." if any(row["kept"] for row in rows) else ""
    return Figure(
        "alignment_against_retrieval",
        "Does getting better at the task bring the joint closer to the reference?",
        "Each line is the path of the joint space over the epochs, on validation: to the right it answers more "
        f"queries, up it is closer to the reference. The path starts at the hollow dot, before training.{kept}",
        f"Paths of mean R@10 and {metric} over epochs. "
        + "; ".join(
            f"{run.label} from {path[0].retrieval:.3f}, {path[0].alignment:.3f} to {path[-1].retrieval:.3f}, "
            f"{path[-1].alignment:.3f}"
            for run in runs
            if (path := retrieval_path(run))
        ),
        rows,
        charts.paths(rows, titles=("mean R@10 of all directions, validation", f"{metric} with the reference")),
    )


def _by_steps(runs: Sequence[RunResults]) -> list[RunResults]:
    """The runs that have epochs: not those in closed form."""
    return [run for run in runs if not run.solved]


def _alignment_rows(run: RunResults, metric: str) -> Rows:
    if not run.reference:
        return _between_sides(run, metric)
    rows: Rows = []
    for space in (*run.joints(), *run.sides):
        series = _short(run, space) + (" adapted" if space in run.sides else "")
        curve = _curve(run, metric=metric, split="validation", space=space, against=REFERENCE)
        rows += [_point(run, series, row, theme.space(space, run.sides)) for row in curve]
    for side in run.sides:
        raw = run.find(stage="raw", space=side, metric=metric, against=REFERENCE, split="validation")[:1]
        rows += _constant(run, f"{_short(run, side)} raw", raw, theme.space(side, run.sides))
    joint = _curve(run, metric=metric, split="validation", space="joint", against=REFERENCE)
    return rows + _chance(run, "chance", joint) + _kept(run)


def _between_sides(run: RunResults, metric: str) -> Rows:
    rows, curve = [], []
    for place, (a, b) in enumerate(run.pairs):
        of = {"metric": metric, "split": "validation", "space": a, "against": b}
        curve, name = _curve(run, **of), shorten(f"{a} and {b}", _LONGEST_LABEL)
        rows += [_point(run, f"{name} adapted", row, theme.series(place)) for row in curve]
        rows += _constant(run, f"{name} raw", run.find(stage="raw", **of)[:1], theme.series(place))
    return rows + _chance(run, "chance", curve) + _kept(run)


def _short(run: RunResults, space: str) -> str:
    return shorten(space if space in run.sides else run.space_name(space), _LONGEST_LABEL)


def _curve(run: RunResults, **wanted: Any) -> "list[Row]":
    """A run's scores by epoch; what the untrained adapters score is epoch 0, where the curve lacks one."""
    trained = [row for row in run.find(stage="trained", **wanted) if row.epoch is not None]
    curve = {row.epoch or 0: row for row in run.find(stage="untrained", **wanted)[:1]}
    curve |= {row.epoch or 0: row for row in trained}
    return [curve[epoch] for epoch in sorted(curve)] if trained else []


def _point(run: RunResults, series: str, row: "Row", colours: tuple[str, str]) -> dict[str, Any]:
    return {
        "run": run.label,
        "metric": row.metric,
        "split": row.split,
        "series": series,
        "epoch": row.epoch or 0,
        "value": number(row),
        "n": row.n,
        "_colour": colours[0],
        "_text": colours[1],
        "_share": "line",
        "_tip": f"{series}, epoch {row.epoch or 0}: {number(row):.3f}",
    }


def _constant(run: RunResults, series: str, rows: "Sequence[Row]", colours: tuple[str, str]) -> Rows:
    return [_point(run, series, row, colours) | {"epoch": None, "_share": "constant"} for row in rows]


def _chance(run: RunResults, series: str, curve: "Sequence[Row]") -> Rows:
    # CKA's chance may depend on the kernel, so that it moves a little with the epochs: the last is shown
    known = [row for row in curve if row.chance is not None][-1:]
    return [line | {"value": row.chance} for row in known for line in _constant(run, series, [row], _CHANCE)]


def _merge_chance(rows: Rows) -> Rows:
    """Joins the chance lines of all directions into one where they read the same to three decimals."""
    chance = [row for row in rows if row["_share"] == "constant"]
    if len({f"{row['value']:.3f}" for row in chance}) != 1:
        return rows
    return [row for row in rows if row["_share"] != "constant"] + [chance[0] | {"series": "chance"}]


def _kept(run: RunResults) -> Rows:
    if run.selected_epoch is None:
        return []
    return [{"series": "kept", "epoch": run.selected_epoch, "value": None, "_share": "kept"}]


def _written(panels: Sequence[tuple[str, Rows]]) -> Rows:
    return [row for _, rows in panels for row in rows if row["_share"] != "kept"]


def _notes(runs: Sequence[RunResults]) -> str:
    kept = " A vertical line marks the epoch kept." if any(run.selected_epoch is not None for run in runs) else ""
    return kept + (" Of several seeds the lines are their mean." if any(run.seeds for run in runs) else "")


def _units(titles: Sequence[str]) -> str:
    text = "; ".join(dict.fromkeys(title.replace("\n", " ") for title in titles))
    return text[0].upper() + text[1:]


def _peaks(runs: Sequence[RunResults]) -> str:
    entries = []
    for run in runs:
        if run.reference:
            curve = _curve(run, metric=run.metrics[0], split="validation", space="joint", against=REFERENCE)
            if curve:
                peak, last = max(curve, key=number), curve[-1]
                end = "the last" if peak is last else f"{number(last):.3f} at the last"
                entries.append((run.label, f"{number(peak):.3f} at epoch {peak.epoch or 0}, {end}"))
    return _listed(f"Highest {metric_title(runs[0].metrics[0])} of the joint space", entries, len(runs) > 1)


def _falls(runs: Sequence[RunResults]) -> str:
    curves = [(run.label, _curve(run, metric="loss", split="train")) for run in runs]
    entries = [
        (label, f"{number(curve[0]):.3f} to {number(curve[-1]):.3f}".replace("-", "−"))
        for label, curve in curves
        if curve
    ]
    return _listed("Training loss, first epoch to last", entries, len(runs) > 1)


def _best_recalls(runs: Sequence[RunResults]) -> str:
    entries = []
    for run in runs:
        best = []
        for direction, name in run.directions().items():
            curve = _curve(run, metric="R@10", split="validation", direction=direction)
            if curve:
                peak = max(curve, key=number)
                best.append(f"{name} {number(peak):.3f} at epoch {peak.epoch or 0}")
        entries.append((run.label, listed(best)))
    return _listed("Highest R@10", entries, len(runs) > 1)


def _listed(what: str, entries: Sequence[tuple[str, str]], several: bool) -> str:
    texts = "; ".join(f"{label} {text}" if several else text for label, text in entries)
    return f"{what}: {texts}. " if entries else ""


def _sizes(runs: Sequence[RunResults]) -> str:
    rows = [run.find(stage="trained", metric=run.metrics[0], split="validation")[:1] for run in runs]
    sizes = {row.n for each in rows for row in each if row.n}
    return f", n = {min(sizes):,} groups" if len(sizes) == 1 else ""
