"""Figures of many runs: every recipe's joint space beside the parts that they share, and curves in one panel."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.printing import printable
from featcache.report.figures import many_charts, theme
from featcache.report.figures.choices import adapter_bars, loss_by_choice
from featcache.report.figures.figure import Figure
from featcache.report.figures.recipes import colours_of, most_varied, recipe_labels
from featcache.report.names import shorten
from featcache.report.runs import REFERENCE, RunResults, metric_title, metrics_of, number
from featcache.report.seeds import (
    Headline,
    by_test,
    by_validation,
    choose_headline,
    headline_run,
    is_range,
    on_validation,
    score_text,
)
from featcache.report.tables import epoch_curve

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row

Rows = list[dict[str, Any]]
_LONGEST = 42


def many_figures(runs: Sequence[RunResults]) -> list[Figure]:
    """Every figure of many runs that they have data for, in reading order.

    Args:
        runs: From `featcache.report.seeds.pool_seeds`.
    """
    drawings = (joint_distribution, curves_of_runs, adapter_bars, loss_by_choice)
    return [figure for figure in (draw(runs) for draw in drawings) if figure is not None]


def joint_distribution(runs: Sequence[RunResults]) -> Figure | None:
    """The joint space of every recipe on test beside the raw parts that recipes share; None without a reference.

    One line a recipe: mean and range over seeds and each seed's dot, or of one seed its interval. The best on
    validation stands at the top, so that the order was not chosen by what is drawn.

    Args:
        runs: From `featcache.report.seeds.pool_seeds`.
    """
    measured = [run for run in runs if run.reference]
    if not measured:
        return None
    chosen = choose_headline(runs)
    headline, names, marks = chosen.run, recipe_labels(runs), {}
    panels: list[dict[str, Any]] = []
    groups = by_test(measured)
    for group in groups:
        ordered = by_validation(group)
        for metric in metrics_of(group):
            lines = [*_shared_lines(group[0], metric)]
            for run in ordered:
                line = _recipe_line(run, metric, names[run.label], run is headline)
                if line is not None:
                    lines.append(line)
                    marks |= {one["_tip"]: run.label for one in (line, *line["_dots"])}
            title = metric_title(metric)
            panels.append(
                {"title": title, "subtitle": _features(group[0]) if len(groups) > 1 else "", "lines": lines}
                | _chance(group, metric)
            )
    score = headline.on_test("trained", "joint", headline.metrics[0])
    told = f"The headline run, {names[headline.label]}, {_chosen(chosen, len(runs))}"
    told += f" and reaches {score_text(score)}" if score else ""
    apart = f" {len(groups)} sets of runs on other features or test groups stand apart." if len(groups) > 1 else ""
    return Figure(
        "joint_distribution",
        f"The joint space of {len(measured)} recipes",
        f"{told} ({metric_title(headline.metrics[0])} with the reference, test split).{apart} From top to bottom by "
        "score on validation, never by test. Dot: mean over seeds, line: their range, small dots: seeds; of one seed "
        "the line is its 95 % interval. Diamond: the headline run. Squares and the lines below them: raw parts; grey "
        "band: 95 % of what unrelated features score; dashed: chance. No line here is a test.",
        f"Dots of the joint space's scores of {len(measured)} recipes beside the raw parts. {told}.",
        [_written(line, panel) for panel in panels for line in panel["lines"]],
        many_charts.ladders(panels, columns=2),
        marks,
    )


def _chosen(headline: Headline, runs: int) -> str:
    """How the headline run was chosen, in a few words."""
    if headline.place:
        return "was chosen on validation"
    if len(headline.candidates) > 1:
        return "is the first named, for the recipes share no criterion on validation,"
    return "is the only one that is no control" if runs > 1 else "is the only one"


def curves_of_runs(runs: Sequence[RunResults]) -> Figure | None:
    """Alignment and loss of all recipes over epochs, a thin line each, coloured by the setting that varies most.

    Args:
        runs: From `featcache.report.seeds.pool_seeds`; those in closed form have no epochs.
    """
    stepped = [run for run in runs if not run.solved]
    if not stepped:
        return None
    headline, _ = headline_run(runs)
    names, marks = recipe_labels(runs), {}
    setting, values = most_varied(stepped)
    first = by_test(stepped)
    panels: list[dict[str, Any]] = []
    for metric in [*metrics_of([run for run in stepped if run.reference]), "loss"]:
        points: Rows = []
        for run, value in zip(stepped, values, strict=True):
            curve = _curve(run, metric)
            if not curve:
                continue
            best = min(curve, key=number) if metric == "loss" else max(curve, key=number)
            extreme = "lowest" if metric == "loss" else "highest"
            title = "loss" if metric == "loss" else metric_title(metric)
            tip = printable(f"{names[run.label]}: {title} {extreme} {number(best):.3f} at epoch {best.epoch or 0}")
            marks[tip] = run.label
            at = {"run": run.label, "metric": metric, "series": value, "_tip": tip, "_headline": run is headline}
            points += [{**at, "epoch": row.epoch or 0, "value": number(row)} for row in curve]
        if points:
            raw = _raw_constants(first[0][0], metric) if len(first) == 1 and metric != "loss" else []
            title = "loss, validation" if metric == "loss" else f"{metric_title(metric)}, validation"
            panels.append({"title": title, "rows": points, "constants": raw})
    if not panels:
        return None
    colours = colours_of(values)
    by = f", coloured by {setting.replace('_', ' ')}" if setting else ""
    several = " Of several seeds the line is their mean." if any(run.seeds for run in stepped) else ""
    parts = " Dashed: raw parts." if any(panel["constants"] for panel in panels) else ""
    return Figure(
        "curves_of_runs",
        f"{len(stepped)} recipes over epochs",
        f"{_spread(stepped)} One line a recipe{by}; the thick one is the headline run, {names[headline.label]}."
        f"{several}{parts} Losses of other kinds do not compare.",
        f"Lines of alignment and loss over epochs of {len(stepped)} recipes. {_spread(stepped)}",
        [row for panel in panels for row in (*panel["rows"], *panel["constants"])],
        many_charts.curves(panels, colours=colours, key=setting.replace("_", " ")),
        marks,
    )


# -- the joint space of every recipe -----------------------------------------------------------------------------------


def _shared_lines(run: RunResults, metric: str) -> Rows:
    """Raw parts and the mixture of their kernels, which all recipes on these features share."""
    lines: Rows = []
    for stage, spaces in (("raw", run.sides), ("mixed", ["mixed"])):
        for space in spaces:
            row = run.on_test(stage, space, metric)
            if row is not None:
                what = f"{shorten(space, _LONGEST - 5)}, raw" if stage == "raw" else "raw kernels mixed"
                lines.append(_line(what, row, theme.space(space, run.sides), stage, []))
    return lines


def _recipe_line(run: RunResults, metric: str, name: str, headline: bool) -> dict[str, Any] | None:
    row = run.on_test("trained", "joint", metric)
    if row is None:
        return None
    dots: Rows = []
    for one in run.seeds:
        score = one.on_test("trained", "joint", metric)
        if score is not None:
            tip = printable(f"{name}, seed {one.settings.get('seed')}: {metric_title(metric)} {number(score):.3f}")
            dots.append({"value": number(score), "_tip": tip, "seed": one.settings.get("seed")})
    look = theme.space("joint", run.sides)
    line = _line(name, row, look, "control" if run.is_control else "headline" if headline else "joint", dots)
    value = on_validation(run)
    return line | {"run": run.label, "validation": value, "metric": metric}


def _line(label: str, row: "Row", look: tuple[str, str], what: str, dots: Rows) -> dict[str, Any]:
    return {
        "run": "",
        "label": label,
        "what": what,
        "metric": row.metric,
        "value": number(row),
        "low": row.ci_low,
        "high": row.ci_high,
        "interval": row.interval,
        "seeds": len(dots) or 1,
        "validation": None,
        "_colour": look[0],
        "_range": is_range(row),
        "_dots": dots,
        "_tip": printable(f"{label}: {metric_title(row.metric)} {score_text(row)}"),
    }


def _written(line: dict[str, Any], panel: dict[str, Any]) -> dict[str, Any]:
    """A line as the data has it: each seed's score beside the mean."""
    seeds = "; ".join(f"{dot['seed']}: {dot['value']}" for dot in line["_dots"])
    return {"features": panel["subtitle"], **line, "scores of seeds": seeds}


def _chance(runs: Sequence[RunResults], metric: str) -> dict[str, float | None]:
    """Chance, and the widest null range, of what is measured alike."""
    rows = [row for run in runs for row in run.find(stage="trained", space="joint", metric=metric, split="test")]
    chances = [row.chance for row in rows if row.chance is not None]
    lows = [row.null_low for row in rows if row.null_low is not None]
    highs = [row.null_high for row in rows if row.null_high is not None]
    mean = sum(chances) / len(chances) if chances else None
    return {"chance": mean, "null_low": min(lows, default=None), "null_high": max(highs, default=None)}


def _features(run: RunResults) -> str:
    sides = " + ".join(shorten(str(side["encoder"]), 18) for side in run.config["sides"].values())
    reference = shorten(str(run.reference["encoder"]), 18) if run.reference else "no reference"
    rows = run.find(stage="trained", split="test", direction="", metric=run.metrics[0])
    size = f", {rows[0].n:,} groups" if rows and rows[0].n else ""
    return f"{sides} → {reference}{size}"


# -- curves ------------------------------------------------------------------------------------------------------------


def _curve(run: RunResults, metric: str) -> "list[Row]":
    wanted = {"metric": metric, "split": "validation"}
    if metric != "loss":
        wanted |= {"space": "joint", "against": REFERENCE}
    curve = epoch_curve(run, **wanted)
    return curve if len(curve) > 1 else []


def _raw_constants(run: RunResults, metric: str) -> Rows:
    rows: Rows = []
    for side in run.sides:
        for row in run.find(stage="raw", space=side, metric=metric, against=REFERENCE, split="validation")[:1]:
            look = theme.space(side, run.sides)
            name = f"{shorten(side, 16)} raw"
            rows.append(
                {"run": "", "metric": metric, "series": name, "epoch": None, "value": number(row), "_text": look[1]}
            )
    return rows


def _spread(runs: Sequence[RunResults]) -> str:
    """How the runs' best validation scores lie, in a sentence."""
    measured = [run for run in runs if run.reference]
    if not measured:
        return ""
    metric = measured[0].metrics[0]
    peaks = [(number(max(curve, key=number)), run) for run in measured if (curve := _curve(run, metric))]
    if not peaks:
        return ""
    values = [value for value, _ in peaks]
    at = sorted(max(_curve(run, metric), key=number).epoch or 0 for _, run in peaks)
    return (
        f"On validation the recipes' highest {metric_title(metric)} of the joint space lies between {min(values):.3f} "
        f"and {max(values):.3f}, reached between epochs {at[0]} and {at[-1]}."
    )
