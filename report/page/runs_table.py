"""The table of many runs: a line a recipe with its scores, which the page sorts, filters and colours charts by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from featcache.report.figures.figure import escape
from featcache.report.names import is_number, shorten
from featcache.report.runs import RECALLS, RunResults, metric_title, number
from featcache.report.seeds import (
    by_test,
    by_validation,
    headline_run,
    independent_settings,
    interval_text,
    kept_loss,
    on_validation,
    recipe_names,
)
from featcache.report.tables import VerdictRow, raw_contrast, signed

_COLUMNS = 10  # of one table: what a page of 992 pixels holds
_LONGEST = 60
_READING = (
    "In brackets: the 95 % interval of a single run; without brackets: the range over seeds. The verdict is that of "
    "each run's own paired test."
)
_HEADLINE = ' class="headline"'
_NONE = '<td data-value=""><span aria-label="not measured">–</span></td>'


@dataclass(frozen=True)
class _Cell:
    """What a cell shows, what its column is sorted by, and what it colours by where that is another thing."""

    text: str
    value: str
    small: str = ""
    colour: str = ""


@dataclass(frozen=True)
class _Column:
    title: str
    small: str
    of: str  # "number" or "text"
    read: Callable[[RunResults], _Cell | None]
    colours: bool = False


def runs_table(runs: Sequence[RunResults]) -> str:
    """The table of many runs; those on other features or test groups under headings of their own.

    The best on validation stands first; no line is marked by its score on test. `<th data-sort>` is "number" or "text",
    `data-colour` says that charts may be coloured by the column, `<tr data-run>` is the label that marks of the figures
    carry, and `<td data-value>` what is sorted by. A cell with `data-colour` is coloured by that instead.

    Args:
        runs: From `featcache.report.seeds.pool_seeds`.
    """
    headline, _ = headline_run(runs)
    names = recipe_names(runs)
    groups = by_test(runs)
    parts: list[str] = []
    for group in groups:
        if len(groups) > 1:
            parts.append(f"<h3>{escape(_heading(group[0]))}</h3>")
            parts.append('<p class="note">Scores compare within this table only.</p>' if group is groups[0] else "")
        parts.append(_table(group, names, headline))
    parts.append(f'<p class="note">{_READING}</p>')
    return "\n".join(filter(None, parts))


def _table(runs: Sequence[RunResults], names: dict[str, str], headline: RunResults) -> str:
    columns = _columns(runs)
    head = "".join(
        f'<th scope="col" data-sort="{column.of}"{" data-colour" if column.colours else ""}>{escape(column.title)}'
        f"{_small(column.small)}</th>"
        for column in columns
    )
    lines: list[str] = []
    for run in by_validation(runs):
        notes = [f"{len(run.seeds)} seeds"] if run.seeds else []
        notes += ["headline run"] if run is headline else ["control"] if run.is_control else []
        name = names[run.label]
        cells = "".join(_td(column.read(run)) for column in columns)
        lines.append(
            f'<tr data-run="{escape(run.label)}"{_HEADLINE if run is headline else ""}>'
            f'<th scope="row" data-value="{escape(shorten(name, _LONGEST))}" title="{escape(shorten(run.label, 200))}">'
            f"{escape(shorten(name, _LONGEST))}{_small(', '.join(notes))}</th>{cells}</tr>"
        )
    first = '<th scope="col" data-sort="text">recipe</th>'
    body = "".join(lines)
    table = f'<table class="runs"><thead><tr>{first}{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _td(cell: _Cell | None) -> str:
    if cell is None:
        return _NONE
    colour = f' data-colour="{escape(cell.colour)}"' if cell.colour else ""
    return f'<td data-value="{escape(cell.value)}"{colour}>{escape(cell.text)}{_small(cell.small)}</td>'


def _small(text: str) -> str:
    return f"<small>{escape(text)}</small>" if text else ""


def _columns(runs: Sequence[RunResults]) -> list[_Column]:
    """At most ten with the recipe: settings that differ take what the scores leave."""
    scores: list[_Column] = []
    if any(run.reference for run in runs):
        metric = next(run for run in runs if run.reference).metrics[0]
        scores.append(_Column("joint", metric_title(metric), "number", _joint(metric), colours=True))
        scores.append(_Column("joint −", "best raw part", "number", _verdict(metric), colours=True))
    directions = list(dict.fromkeys(name for run in runs for name in run.directions()))
    if len(directions) > 2:
        what = f"mean of {len(directions)} directions"
        scores.append(_Column(RECALLS[-1], what, "number", _recall(directions), colours=True))
    scores += [
        _Column(RECALLS[-1], " → ".join(shorten(side, 11) for side in one.split("→")), "number", _recall([one]), True)
        for one in (directions if len(directions) <= 2 else ())
    ]
    scores.append(_Column("loss", "validation", "number", _loss, colours=True))
    scores.append(_Column("score", "validation", "number", _validation, colours=True))
    varied = independent_settings(runs)
    room = _COLUMNS - 1 - len(scores)
    settings = [_Column(name.replace("_", " "), "", *_setting(name, runs, varied[name])) for name in [*varied][:room]]
    return [*settings, *scores]


def _setting(
    name: str, runs: Sequence[RunResults], values: Sequence[str]
) -> tuple[str, Callable[[RunResults], _Cell | None], bool]:
    by_run = {run.label: value for run, value in zip(runs, values, strict=True)}
    numbers = all(is_number(value) for value in values if value != "–")

    def read(run: RunResults) -> _Cell | None:
        value = shorten(by_run[run.label])
        return None if value == "–" else _Cell(value, value)

    return "number" if numbers else "text", read, True


def _joint(metric: str) -> Callable[[RunResults], _Cell | None]:
    def read(run: RunResults) -> _Cell | None:
        row = run.on_test("trained", "joint", metric)
        if row is None:
            return None
        return _Cell(f"{number(row):.3f}", f"{number(row):.6g}", interval_text(row).removeprefix("range "))

    return read


def _verdict(metric: str) -> Callable[[RunResults], _Cell | None]:
    def read(run: RunResults) -> _Cell | None:
        row = raw_contrast(run, "max", metric)
        return None if row is None else _verdict_cell(row)

    return read


def _verdict_cell(row: VerdictRow) -> _Cell | None:
    values = [one.value for one in row.rows if one.value is not None]
    if not values:
        return None
    verdicts = [one.verdict for one in row.rows]
    first = max(dict.fromkeys(verdicts), key=verdicts.count)
    count = f" {verdicts.count(first)}/{len(verdicts)}" if len(verdicts) > 1 else ""
    agreed = first if len(set(verdicts)) == 1 else "seeds differ"
    return _Cell(signed(fmean(values)), f"{fmean(values):.6g}", f"{first}{count}", agreed)


def _recall(directions: Sequence[str]) -> Callable[[RunResults], _Cell | None]:
    def read(run: RunResults) -> _Cell | None:
        of = {"stage": "trained", "metric": RECALLS[-1], "split": "test"}
        rows = [row for one in directions for row in run.find(direction=one, **of)[:1]]
        if not rows:
            return None
        mean = fmean(number(row) for row in rows)
        return _Cell(f"{mean:.3f}", f"{mean:.6g}")

    return read


def _loss(run: RunResults) -> _Cell | None:
    values = kept_loss(run)
    if not values:
        return None
    return _Cell(f"{fmean(values):.3f}".replace("-", "−"), f"{fmean(values):.6g}", _epochs(run))


def _epochs(run: RunResults) -> str:
    """The epoch kept, or the first and last of several seeds'."""
    epochs = [one.selected_epoch for one in run.each if one.selected_epoch is not None]
    if not epochs:
        return ""
    return f"epoch {epochs[0]}" if len(set(epochs)) == 1 else f"epochs {min(epochs)}–{max(epochs)}"


def _validation(run: RunResults) -> _Cell | None:
    value = on_validation(run)
    return None if value is None else _Cell(f"{value:.3f}", f"{value:.6g}")


def _heading(run: RunResults) -> str:
    sides = " + ".join(shorten(str(side["encoder"])) for side in run.config["sides"].values())
    reference = f" → {shorten(str(run.reference['encoder']))}" if run.reference else ", no reference"
    rows = run.find(stage="trained", split="test", direction="", metric=run.metrics[0])
    size = f", {rows[0].n:,} test groups" if rows and rows[0].n else ""
    return f"{shorten(str(run.config.get('dataset', '')))}: {sides}{reference}{size}"
