"""Figures of many runs by what was chosen: loss and epoch by adapter and width, alignment and loss by adapter."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from featcache.printing import printable
from featcache.report.figures import many_charts, theme
from featcache.report.figures.figure import Figure
from featcache.report.figures.recipes import COLOURS, numeric, recipe_labels
from featcache.report.names import shorten
from featcache.report.runs import RunResults, metric_title, metrics_of, number
from featcache.report.seeds import by_test, kept_loss, over_seeds
from featcache.report.sentences import listed

Rows = list[dict[str, Any]]


def loss_by_choice(runs: Sequence[RunResults]) -> Figure | None:
    """Validation loss and epoch kept of every recipe by adapter and width, losses of each kind by themselves.

    None where neither adapter nor width varies.
    """
    from featcache.report.figures import point_charts

    stepped = [run for run in runs if not run.solved]
    adapters, widths = ([_choice(run, name) for run in stepped] for name in ("adapter", "width"))
    if len({*zip(adapters, widths, strict=True)}) < 2:
        return None
    names, marks = recipe_labels(runs), {}
    if len(set(widths)) > COLOURS:  # more than there are colours: each choice is a line of its own
        pairs = zip(adapters, widths, strict=True)
        adapters, widths = [f"{adapter}, width {width}" for adapter, width in pairs], [""] * len(stepped)
    panels: dict[str, Rows] = {}
    for run, adapter, width in zip(stepped, adapters, widths, strict=True):
        kind = shorten(str(run.settings.get("loss", "infonce")))
        epochs = [float(one.selected_epoch) for one in run.each if one.selected_epoch is not None]
        for title, values, form in ((f"{kind}: validation loss", kept_loss(run), ".3f"), ("epoch kept", epochs, ".1f")):
            if values:
                tip = printable(f"{names[run.label]}: {title} " + f"{fmean(values):{form}}".replace("-", "−"))
                marks[tip] = run.label
                panels.setdefault(title, []).append(_choice_row(run, title, (adapter, width), values, tip))
    if not panels:
        return None
    titles = sorted(panels, key=lambda title: title == "epoch kept")
    by_label = dict.fromkeys(sorted((row["label"] for row in panels[titles[-1]]), key=numeric)) if not widths[0] else {}
    if by_label:
        order = [*by_label]
        panels = {title: sorted(own, key=lambda row: order.index(row["label"])) for title, own in panels.items()}
    rows = [row for title in titles for row in panels[title]]
    series = sorted(dict.fromkeys(row["series"] for row in rows), key=numeric)
    colours = {one: theme.series(place)[0] for place, one in enumerate(series)}
    low = min(panels[titles[0]], key=lambda row: row["value"])
    told = f"Lowest loss ({low['metric'].partition(':')[0]}): {low['value']:.3f}, {names[low['run']]}."
    return Figure(
        "loss_by_choice",
        "Loss and epoch kept, by adapter and width",
        f"{told.replace('-', '−')} Of the adapters kept; one dot a recipe, mean over seeds, line: their range. A lower "
        "loss of another width or adapter is not a better space: see the scores.",
        f"Dots of validation loss and epoch kept by adapter and width. {told}",
        rows,
        point_charts.named_points(
            [([title], panels[title]) for title in titles],
            columns=min(3, len(titles)),
            colours=colours,
            title="",
            key="",
        ),
        marks,
    )


def adapter_bars(runs: Sequence[RunResults]) -> Figure | None:
    """Alignment and loss by adapter, of the largest set of recipes that agree in everything else.

    None where no two recipes differ in their adapter alone. With two seeds or more the thick line is the interval of
    the mean over seeds; the thin one is that of the first seed over samples.
    """
    held = _same_but_adapter(runs)
    if held is None:
        return None
    names, marks = recipe_labels(runs), {}
    metric = metrics_of(held)[0] if any(run.reference for run in held) else ""
    panels: list[dict[str, Any]] = []
    for title, read in ((metric_title(metric), _alignment_of(metric)), ("validation loss", _loss_of)):
        bars = [_bar(run, title, *read(run), names[run.label]) for run in held if read(run)[0]]
        if bars and title:
            marks |= {bar["_tip"]: bar["run"] for bar in bars}
            panels.append({"title": title, "bars": bars})
    if not panels:
        return None
    told = "; ".join(f"{bar['label']} " + f"{bar['value']:.3f}".replace("-", "−") for bar in panels[0]["bars"])
    seeds = any(bar["seed_low"] is not None for panel in panels for bar in panel["bars"])
    thick = "thick line: 95 % of the mean over seeds (Student's t, same test groups); " if seeds else ""
    return Figure(
        "adapter_bars",
        "Alignment and loss by adapter, all else alike",
        f"{panels[0]['title']}: {told}. {len(held)} recipes that differ in their adapter alone; {thick}thin line: 95 % "
        "interval of one seed over samples, where it was measured. Two intervals that overlap, or do not, are no test.",
        f"Bars by adapter: {told}",
        [bar for panel in panels for bar in panel["bars"]],
        many_charts.bars(panels),
        marks,
    )


def _choice(run: RunResults, name: str) -> str:
    value = run.settings.get(name)
    if isinstance(value, dict):
        value = listed([str(one) for one in value.values()])
    return shorten(str(value)) if value is not None else "–"


def _choice_row(
    run: RunResults, title: str, choice: tuple[str, str], values: Sequence[float], tip: str
) -> dict[str, Any]:
    several = len(values) > 1
    return {
        "run": run.label,
        "label": choice[0],
        "series": f"width {choice[1]}" if choice[1] else "recipe",
        "metric": title,
        "value": fmean(values),
        "ci_low": min(values) if several else None,
        "ci_high": max(values) if several else None,
        "chance": None,
        "seeds": len(values),
        "_tip": tip,
    }


def _same_but_adapter(runs: Sequence[RunResults]) -> list[RunResults] | None:
    """The recipes of most adapters that agree in features, test groups and every other setting; the first of equals."""
    sets: list[list[RunResults]] = []
    for group in by_test([run for run in runs if not run.is_control]):
        alike: dict[str, dict[str, RunResults]] = {}
        for run in group:
            rest = {name: value for name, value in run.settings.items() if name not in ("adapter", "seed")}
            alike.setdefault(repr(sorted(rest.items())), {}).setdefault(_choice(run, "adapter"), run)
        sets += [[*own.values()] for own in alike.values()]
    most = max(sets, key=len, default=[])
    return most if len(most) > 1 else None


_Read = Callable[[RunResults], tuple[list[float], float | None, float | None]]


def _alignment_of(metric: str) -> _Read:
    def read(run: RunResults) -> tuple[list[float], float | None, float | None]:
        rows = [row for one in run.each if metric and (row := one.on_test("trained", "joint", metric))]
        return [number(row) for row in rows], rows[0].ci_low if rows else None, rows[0].ci_high if rows else None

    return read


def _loss_of(run: RunResults) -> tuple[list[float], float | None, float | None]:
    return kept_loss(run), None, None


def _bar(
    run: RunResults, title: str, values: Sequence[float], low: float | None, high: float | None, name: str
) -> dict[str, Any]:
    mean, seed_low, seed_high = over_seeds(values)
    seeds = f", mean of {len(values)} seeds" if len(values) > 1 else ""
    return {
        "run": run.label,
        "label": _choice(run, "adapter"),
        "metric": title,
        "value": mean,
        "seed_low": seed_low,
        "seed_high": seed_high,
        "sample_low": low,
        "sample_high": high,
        "seeds": len(values),
        "_tip": printable(f"{name}: {title} {mean:.3f}{seeds}".replace(" -", " −")),
    }
