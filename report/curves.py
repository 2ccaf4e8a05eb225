"""Figures over epochs: alignment, loss and retrieval."""

from collections.abc import Sequence
from typing import Any

from featcache.report import charts, theme
from featcache.report.figure import Figure, columns_for, shorten
from featcache.report.runs import ALIGNMENT, RunResults, Score

Rows = list[dict[str, Any]]
_KEPT = "A vertical line marks the epoch kept."


def alignment_over_epochs(runs: Sequence[RunResults]) -> Figure | None:
    """Draws agreement with the reference over epochs, raw parts as dashed constants; None without epochs."""
    panels, titles = [], []
    several = len(runs) > 1
    for metric, name in ALIGNMENT.items():
        for run in runs:
            rows = _alignment_rows(run, metric)
            if any(row["_share"] == "line" for row in rows):
                panels.append((run.label if several else "", rows))
                titles.append(name)
    if not panels:
        return None
    every = [row for _, rows in panels for row in rows if row["_share"] != "kept"]
    names = runs[0].names()
    n = _sizes(runs, "joint")
    caption = _peaks(runs)
    return Figure(
        "alignment_over_epochs",
        "Agreement with the reference over epochs",
        f"{caption} Validation split{n}. Solid: the joint space and its adapted sides (epoch 0 is untrained); "
        f"dashed: raw features, and chance in grey. {_KEPT}",
        f"Lines of mutual-kNN and linear CKA with {names['reference']} over epochs. {caption}",
        every,
        charts.epochs(panels, columns=columns_for(len(runs), panels_of_one=2), y_titles=titles),
    )


def loss_over_epochs(runs: Sequence[RunResults]) -> Figure | None:
    """Draws the training loss, and the validation loss where the run measured it; None without either."""
    panels = []
    for run in runs:
        rows: Rows = []
        for split, colour in (("train", theme.INK), ("validation", theme.COLOURS["y"])):
            curve = _curve(run, metric="loss", split=split)
            text = theme.TEXT["y"] if split == "validation" else colour
            rows += [_point(run, split, score, "loss", colour, text) for score in curve]
        if rows:
            panels.append((run.label if len(runs) > 1 else "", rows + _kept(run)))
    if not panels:
        return None
    caption = _falls(runs)
    return Figure(
        "loss_over_epochs",
        "Loss over epochs",
        f"{caption} Contrastive loss in nats a pair; it depends on the batch size. {_KEPT}",
        f"Lines of the contrastive loss over epochs. {caption}",
        [row for _, rows in panels for row in rows if row["_share"] != "kept"],
        charts.epochs(panels, columns=columns_for(len(runs)), y_titles=["loss"] * len(panels)),
    )


def retrieval_over_epochs(runs: Sequence[RunResults]) -> Figure | None:
    """Draws R@10 on validation over epochs in both directions, chance dashed; None without epochs."""
    panels = []
    for run in runs:
        rows: Rows = []
        for (direction, name), role in zip(run.directions().items(), ("x", "y"), strict=True):
            curve = _curve(run, metric="R@10", split="validation", direction=direction)
            rows += [_point(run, name, score, "R@10", theme.COLOURS[role], theme.TEXT[role]) for score in curve]
            rows += _chance(run, f"chance {name}", curve, "R@10")
        if rows:
            panels.append((run.label if len(runs) > 1 else "", _merge_chance(rows) + _kept(run)))
    if not panels:
        return None
    caption = _best_recalls(runs)
    return Figure(
        "retrieval_over_epochs",
        "Retrieval over epochs",
        f"{caption} R@10 is the share of validation queries with a right answer among the ten nearest; epoch 0 is "
        f"untrained. {_KEPT}",
        f"Lines of R@10 over epochs in both directions. {caption}",
        [row for _, rows in panels for row in rows if row["_share"] != "kept"],
        charts.epochs(panels, columns=columns_for(len(runs)), y_titles=["R@10, validation"] * len(panels)),
    )


def _alignment_rows(run: RunResults, metric: str) -> Rows:
    names = {role: shorten(name) for role, name in run.names().items()}
    rows: Rows = []
    for space, series in (("joint", "joint"), ("x", f"{names['x']} adapted"), ("y", f"{names['y']} adapted")):
        curve = _curve(run, metric=metric, split="validation", space=space, against="reference")
        rows += [_point(run, series, score, metric, theme.COLOURS[space], theme.TEXT[space]) for score in curve]
    for space in ("x", "y"):
        for raw in run.find(stage="raw", space=space, metric=metric, against="reference", split="validation")[:1]:
            point = _point(run, f"{names[space]} raw", raw, metric, theme.COLOURS[space], theme.TEXT[space])
            rows.append(point | {"epoch": None, "_share": "constant"})
    joint = _curve(run, metric=metric, split="validation", space="joint", against="reference")
    return rows + _chance(run, "chance", joint, metric) + _kept(run)


def _curve(run: RunResults, **wanted: Any) -> list[Score]:
    """Returns a run's scores by epoch; what the untrained adapters score is epoch 0, where the curve lacks one."""
    trained = [score for score in run.find(stage="trained", **wanted) if score.epoch is not None]
    curve = {score.epoch or 0: score for score in run.find(stage="untrained", **wanted)[:1]}
    curve |= {score.epoch or 0: score for score in trained}
    return [curve[epoch] for epoch in sorted(curve)] if trained else []


def _point(run: RunResults, series: str, score: Score, metric: str, colour: str, text: str) -> dict[str, Any]:
    tip = f"{series}, epoch {score.epoch or 0}: {score.value:.3f}"
    return {
        "run": run.label,
        "metric": metric,
        "split": score.split,
        "series": series,
        "epoch": score.epoch or 0,
        "value": score.value,
        "n": score.n,
        "_colour": colour,
        "_text": text,
        "_share": "line",
        "_tip": tip,
    }


def _chance(run: RunResults, series: str, curve: list[Score], metric: str) -> Rows:
    # linear CKA's chance depends on the kernel, so it moves a little with the epochs: the last is shown
    known = [score for score in curve if score.chance is not None][-1:]
    points = [(_point(run, series, score, metric, "#8f959b", theme.MUTED), score.chance) for score in known]
    return [point | {"epoch": None, "value": chance, "_share": "constant"} for point, chance in points]


def _merge_chance(rows: Rows) -> Rows:
    """Joins the two directions' chance lines into one where they read the same to three decimals."""
    chance = [row for row in rows if row["_share"] == "constant"]
    if len({f"{row['value']:.3f}" for row in chance}) != 1:
        return rows
    return [row for row in rows if row["_share"] != "constant"] + [chance[0] | {"series": "chance"}]


def _kept(run: RunResults) -> Rows:
    if run.selected_epoch is None:
        return []
    return [{"series": "kept", "epoch": run.selected_epoch, "value": None, "_share": "kept"}]


def _peaks(runs: Sequence[RunResults]) -> str:
    entries = []
    for run in runs:
        curve = _curve(run, metric="mutual_knn", split="validation", space="joint", against="reference")
        if curve:
            peak, last = max(curve, key=lambda score: score.value), curve[-1]
            end = "the last" if peak is last else f"{last.value:.3f} at the last"
            entries.append((run.label, f"{peak.value:.3f} at epoch {peak.epoch or 0}, {end}"))
    return _listed("Highest mutual-kNN of the joint space", entries, len(runs) > 1)


def _falls(runs: Sequence[RunResults]) -> str:
    curves = [(run.label, _curve(run, metric="loss", split="train")) for run in runs]
    entries = [(label, f"{curve[0].value:.3f} to {curve[-1].value:.3f}") for label, curve in curves if curve]
    return _listed("Training loss, first epoch to last", entries, len(runs) > 1)


def _best_recalls(runs: Sequence[RunResults]) -> str:
    entries = []
    for run in runs:
        best = []
        for direction, name in run.directions().items():
            curve = _curve(run, metric="R@10", split="validation", direction=direction)
            if curve:
                peak = max(curve, key=lambda score: score.value)
                best.append(f"{name} {peak.value:.3f} at epoch {peak.epoch or 0}")
        entries.append((run.label, " and ".join(best)))
    return _listed("Highest R@10", entries, len(runs) > 1)


def _listed(what: str, entries: Sequence[tuple[str, str]], several: bool) -> str:
    return f"{what}: {'; '.join(f'{label} {text}' if several else text for label, text in entries)}." if entries else ""


def _sizes(runs: Sequence[RunResults], space: str) -> str:
    scores = [run.find(stage="trained", space=space, metric="mutual_knn", split="validation")[:1] for run in runs]
    sizes = {score.n for each in scores for score in each if score.n}
    return f", n = {min(sizes):,} groups" if len(sizes) == 1 else ""
