"""Figures over epochs, alignment, loss and retrieval; and of mixed kernels over their weight."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.report.figures import charts, map_charts, theme
from featcache.report.figures.figure import Figure, columns_for
from featcache.report.names import shorten
from featcache.report.runs import REFERENCE, RunResults, metric_title, metrics_of, mixture_text, number
from featcache.report.seeds import headline_run
from featcache.report.sentences import listed
from featcache.report.tables import epoch_curve

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row

Rows = list[dict[str, Any]]
LOSS = "loss less that of a guess\namong the batch, nats (0 = chance)"
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
            rows += [_point(run, split, row, colours) for row in epoch_curve(run, metric="loss", split=split)]
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
            curve = epoch_curve(run, metric="R@10", split="validation", direction=direction)
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


def mixing_curve(runs: Sequence[RunResults]) -> Figure | None:
    """Draws what mixed raw kernels score on validation by the weight of the first side, of the headline run.

    None where a run has three sides or more, no reference, or no mixtures.
    """
    run, _ = headline_run(runs)
    panels: list[tuple[str, Rows, Rows]] = []
    every: Rows = []
    captions: list[str] = []
    for metric in run.metrics if len(run.sides) == 2 else []:
        points = _mixtures(run, metric)
        if not points:
            continue
        constants = _mixed_with(run, metric)
        best = next((row for row in points if row["_chosen"]), max(points, key=lambda row: row["value"]))
        captions.append(f"{metric_title(metric)} {best['value']:.3f} with {best['weights']}")
        panels.append((metric_title(metric), points, constants))
        every += [*points, *constants]
    if not panels:
        return None
    caption = f"Best mixture on validation: {listed(captions)}. "
    return Figure(
        "mixing_curve",
        "Mixtures of the raw kernels",
        f"{caption}The raw kernels of {' and '.join(run.sides)}, weighted and added, against the reference; validation "
        "split. The ringed point is the weight that was chosen there and measured on test. Dashed: the raw sides alone "
        f"and the trained joint space{_at_epoch(run)}.",
        f"Curves of the score of mixed kernels over the weight of {run.sides[0]}. {caption}",
        every,
        map_charts.mixtures(panels, columns=len(panels), sides=(shorten(run.sides[0]), shorten(run.sides[1]))),
    )


def _mixtures(run: RunResults, metric: str) -> Rows:
    """Every mixture that validation saw, by rising weight of the first side."""
    chosen = {row.weights for row in run.find(stage="mixed", split="test", metric=metric)}
    rows = []
    for row in run.find(stage="mixed", split="validation", metric=metric):
        weights = json.loads(row.weights or "{}")
        if run.sides[0] in weights:
            point = {
                "run": run.label, "metric": metric, "series": "raw kernels mixed", "weight": weights[run.sides[0]],
                "weights": mixture_text(row), "value": number(row), "n": row.n, "_chosen": row.weights in chosen,
                "_tip": f"{mixture_text(row)}: {number(row):.3f}",
            }  # fmt: skip
            rows.append(point)
    return sorted(rows, key=lambda row: row["weight"])


def _mixed_with(run: RunResults, metric: str) -> Rows:
    """The raw sides and the joint space on validation, with places for their labels."""
    of = {"metric": metric, "split": "validation", "against": REFERENCE}
    rows = [row for side in run.sides for row in run.find(stage="raw", space=side, **of)[:1]]
    epochs = {one.selected_epoch for one in run.each}
    # of several seeds, each of its own epoch, there is no one mean row
    joints = run.find(stage="trained", space="joint", epoch=run.drawn_epoch, **of)[:1] if len(epochs) == 1 else []
    constants: Rows = []
    for row in (*rows, *joints):
        colour, text = theme.space(row.space, run.sides)
        name = f"{_short(run, row.space)} raw" if row.space in run.sides else "joint, trained"
        one = {"run": run.label, "metric": metric, "series": name, "weight": None, "weights": ""}
        constants.append(one | {"value": number(row), "n": row.n, "_colour": colour, "_text": text})
    span = max((abs(row["value"]) for row in constants), default=1.0) or 1.0
    places = charts.spread_labels([row["value"] for row in constants], gap=span * 0.075)
    return [row | {"place": place} for row, place in zip(constants, places, strict=True)]


def _at_epoch(run: RunResults) -> str:
    epochs = {one.selected_epoch for one in run.each} - {None}
    return f" of epoch {epochs.pop()}" if len(epochs) == 1 and not run.solved else ""


def _by_steps(runs: Sequence[RunResults]) -> list[RunResults]:
    """The runs that have epochs: not those in closed form."""
    return [run for run in runs if not run.solved]


def _alignment_rows(run: RunResults, metric: str) -> Rows:
    if not run.reference:
        return _between_sides(run, metric)
    rows: Rows = []
    for space in (*run.joints(), *run.sides):
        series = _short(run, space) + (" adapted" if space in run.sides else "")
        curve = epoch_curve(run, metric=metric, split="validation", space=space, against=REFERENCE)
        rows += [_point(run, series, row, theme.space(space, run.sides)) for row in curve]
    for side in run.sides:
        raw = run.find(stage="raw", space=side, metric=metric, against=REFERENCE, split="validation")[:1]
        rows += _constant(run, f"{_short(run, side)} raw", raw, theme.space(side, run.sides))
    joint = epoch_curve(run, metric=metric, split="validation", space="joint", against=REFERENCE)
    return rows + _chance(run, "chance", joint) + _kept(run)


def _between_sides(run: RunResults, metric: str) -> Rows:
    rows, curve = [], []
    for place, (a, b) in enumerate(run.pairs):
        of = {"metric": metric, "split": "validation", "space": a, "against": b}
        curve, name = epoch_curve(run, **of), shorten(f"{a} and {b}", _LONGEST_LABEL)
        rows += [_point(run, f"{name} adapted", row, theme.series(place)) for row in curve]
        rows += _constant(run, f"{name} raw", run.find(stage="raw", **of)[:1], theme.series(place))
    return rows + _chance(run, "chance", curve) + _kept(run)


def _short(run: RunResults, space: str) -> str:
    return shorten(space if space in run.sides else run.space_name(space), _LONGEST_LABEL)


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
            curve = epoch_curve(run, metric=run.metrics[0], split="validation", space="joint", against=REFERENCE)
            if curve:
                peak, last = max(curve, key=number), curve[-1]
                end = "the last" if peak is last else f"{number(last):.3f} at the last"
                entries.append((run.label, f"{number(peak):.3f} at epoch {peak.epoch or 0}, {end}"))
    return _listed(f"Highest {metric_title(runs[0].metrics[0])} of the joint space", entries, len(runs) > 1)


def _falls(runs: Sequence[RunResults]) -> str:
    curves = [(run.label, epoch_curve(run, metric="loss", split="train")) for run in runs]
    entries = [
        (label, f"{number(curve[0]):.3f} to {number(curve[-1]):.3f}".replace("-", "−"))
        for label, curve in curves
        if curve
    ]
    old = any(run.format == 1 for run in runs)
    return _listed(f"Training loss{'' if old else ' less chance’s'}, first epoch to last", entries, len(runs) > 1)


def _best_recalls(runs: Sequence[RunResults]) -> str:
    entries = []
    for run in runs:
        best = []
        for direction, name in run.directions().items():
            curve = epoch_curve(run, metric="R@10", split="validation", direction=direction)
            if curve:
                peak = max(curve, key=number)
                best.append(f"{name} {number(peak):.3f} at epoch {peak.epoch or 0}")
        entries += [(run.label, listed(best))] if best else []
    return _listed("Highest R@10", entries, len(runs) > 1)


def _listed(what: str, entries: Sequence[tuple[str, str]], several: bool) -> str:
    texts = "; ".join(f"{label} {text}" if several else text for label, text in entries)
    return f"{what}: {texts}. " if entries else ""


def _sizes(runs: Sequence[RunResults]) -> str:
    rows = [run.find(stage="trained", metric=run.metrics[0], split="validation")[:1] for run in runs]
    sizes = {row.n for each in rows for row in each if row.n}
    return f", n = {min(sizes):,} groups" if len(sizes) == 1 else ""
