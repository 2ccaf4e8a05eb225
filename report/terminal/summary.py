"""What a training shows by default: the answer, few scores and verdicts, the epochs, caveats."""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from featcache.report.names import decimals, shorten, span
from featcache.report.runs import REFERENCE, RunResults, metric_title, number
from featcache.report.terminal.console import console
from featcache.report.terminal.fitted import print_fitted_table, print_fitting, print_parts
from featcache.report.terminal.sparkline import sparkline

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row
    from featcache.report.tables import VerdictRow

_CONTRASTS = {
    "joint − best raw part": "best raw part",
    "joint − average of raw parts": "average of raw parts",
    "joint: trained − untrained": "untrained adapters",
    "joint: trained − pairs shuffled": "pairs shuffled",
}
Curve = list[tuple[int, float]]


def show_answer(run: RunResults) -> None:
    """One line: the answer of a run, as whole as fits."""
    from featcache.report.answer import answers

    print_fitting(answers(run), style="bold")


def show_summary(run: RunResults) -> None:
    """Scores, verdicts and retrieval of a run on the test split, by its first metric."""
    console().print()
    if run.reference:
        _show_spaces(run)
        _show_verdicts(run)
    else:
        _show_pairs(run)
    _show_retrieval(run)


def show_run_table(runs: Sequence[RunResults]) -> None:
    """A line for each of several runs: the joint space, and its verdict against its best raw part."""
    from featcache.report.tables import raw_contrast

    lines = []
    for run in runs:
        joint = run.on_test("trained", "joint", run.metrics[0])
        row = raw_contrast(run, "max", run.metrics[0])
        verdict = ("–", "–") if row is None else (row.verdict, row.difference)
        lines.append((run.label, _score(joint), _interval(joint), *verdict))
    if any(run.reference for run in runs):
        console().print()
        columns = ("run", "joint", _interval_name(*runs), "against best raw part", "difference")
        print_fitted_table(columns, lines, names=(0, 3))


def show_epochs(run: RunResults) -> None:
    """Sparklines over the epochs: alignment and retrieval on validation, and the loss."""
    title = metric_title(run.metrics[0])
    on_validation: dict[str, Any] = {"split": "validation", "metric": run.metrics[0]}
    curves: dict[str, Curve] = {}
    if run.reference:
        curves[f"joint, {title}"] = _curve(run, space="joint", against=REFERENCE, **on_validation)
    else:
        for a, b in run.pairs:
            curves[f"{a}, {b}: {title}"] = _curve(run, space=a, against=b, **on_validation)
    curves["mean R@10"] = _mean_curve(
        [_curve(run, split="validation", metric="R@10", direction=one) for one in run.directions()]
    )
    loss = "training loss" if run.format == 1 else "training loss − chance"
    curves[loss] = _curve(run, split="train", metric="loss")
    lines = [_epoch_line(name, curve, lowest=name == loss) for name, curve in curves.items() if len(curve) > 1]
    if lines and not run.solved:
        last = max(curve[-1][0] for curve in curves.values() if curve)
        kept = f"epoch {run.selected_epoch} is kept" if run.selected_epoch is not None else "means over seeds"
        console().print()
        columns = (f"epochs to {last}", "", "first", "best", "last")
        print_fitted_table(columns, lines, title=("On validation after each epoch;", f"{kept}"))


def show_caveats(runs: Sequence[RunResults]) -> None:
    """A line for each caveat; --verbose and the page say more."""
    from featcache.report.caveats import caveat_list

    lines = [one.line for one in caveat_list(runs)]
    if lines:
        console().print()
    for line in lines:
        print_parts([f"Caveat: {line}"], style="bold")


def _show_spaces(run: RunResults) -> None:
    metric = run.metrics[0]
    spaces = [("raw", side, f"{run.space_name(side)}, raw") for side in run.sides]
    spaces += [(stage, "joint", f"{run.space_name('joint')}, {stage}") for stage in ("untrained", "trained")]
    scores = [(label, run.on_test(stage, space, metric)) for stage, space, label in spaces]
    lines = [(label, _score(row), _interval(row)) for label, row in scores if row is not None]
    title = (f"Against {shorten(run.names()[REFERENCE])}:", *_facts(run))
    print_fitted_table(("space", "score", _interval_name(run)), lines, title=title)


def _show_verdicts(run: RunResults) -> None:
    from featcache.report.tables import contrast_table

    rows = {row.contrast: row for row in contrast_table([run]) if row.metric == run.metrics[0]}
    lines = [(name, *_verdict_cells(rows[contrast])) for contrast, name in _CONTRASTS.items() if contrast in rows]
    if not lines:
        return
    console().print()
    columns = ("joint space against", "verdict", "difference, 95 %", "p")
    if run.seeds:
        columns, lines = (*columns[:2], "mean difference"), [line[:3] for line in lines]
        print_fitted_table(columns, lines, names=(0, 1))
        return
    print_fitted_table(columns, lines)
    console().print("(p is corrected for all contrasts of the metric, the intervals are not)")


def _verdict_cells(row: "VerdictRow") -> tuple[str, str, str]:
    if len(row.rows) > 1:
        return row.verdict, row.difference.removeprefix("mean "), ""
    return row.verdict, f"{row.difference} {row.interval}", row.p


def _show_pairs(run: RunResults) -> None:
    metric, lines = run.metrics[0], []
    for a, b in run.pairs:
        rows = {stage: run.on_test(stage, a, metric, b) for stage in ("raw", "untrained", "trained")}
        if rows["trained"] is not None:
            lines.append((f"{a}, {b}", *map(_score, rows.values()), _interval(rows["trained"])))
    title = ("Agreement of the sides:", *_facts(run))
    columns = ("sides", "raw", "untrained", "trained", _interval_name(run))
    print_fitted_table(columns, lines, title=title)


def _show_retrieval(run: RunResults) -> None:
    """A line for each two sides: R@1 and R@10 both ways, with chance."""
    from featcache.report.tables import retrieval_table

    rows = {(row.direction, row.metric): row.score for row in retrieval_table([run]) if row.stage == "trained"}
    if rows:
        console().print()
    chances = [_chance([score for (_, metric), score in rows.items() if metric == name]) for name in ("R@1", "R@10")]
    chance = f"chance {'/'.join(chances)}" if set(chances) != {"–"} else ""
    single = len(run.pairs) == 1
    for a, b in run.pairs:
        ways = {way: [rows.get((way, metric)) for metric in ("R@1", "R@10")] for way in (f"{a}→{b}", f"{b}→{a}")}
        ways = {way: scores for way, scores in ways.items() if any(scores)}
        if ways:
            print_fitting(_retrieval_lines(ways, f", {chance}" if single and chance else ""))
    if rows and chance and not single:
        console().print(f"({chance})")


def _retrieval_lines(ways: dict[str, "list[Row | None]"], tail: str) -> list[str]:
    """The same line with whole names, without spaces around arrows, and with shortened names."""
    scores = ["/".join(map(_score, of)) for of in ways.values()]

    def line(names: Sequence[str]) -> str:
        return f"R@1/R@10 {', '.join(f'{name} {score}' for name, score in zip(names, scores, strict=True))}{tail}"

    short = [[line(["→".join(shorten(side, most) for side in way.split("→")) for way in ways])] for most in (12, 8)]
    return [line([way.replace("→", " → ") for way in ways]), line([*ways]), *(one for each in short for one in each)]


def _chance(rows: "Sequence[Row | None]") -> str:
    """The chance of several scores: one number, or the lowest and the highest."""
    chances = [row.chance for row in rows if row is not None and row.chance is not None]
    if not chances:
        return "–"
    return "–".join(dict.fromkeys((decimals(min(chances)), decimals(max(chances)))))


def _epoch_line(name: str, curve: Curve, *, lowest: bool) -> tuple[str, str, str, str, str]:
    values = [value for _, value in curve]
    epoch, best = (min if lowest else max)(curve, key=lambda point: point[1])
    return name, sparkline(values), decimals(values[0]), f"{decimals(best)} at {epoch}", decimals(values[-1])


def _curve(run: RunResults, **columns: Any) -> Curve:
    from featcache.report.tables import epoch_curve

    return [(row.epoch or 0, number(row)) for row in epoch_curve(run, **columns)]


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of curves at the epochs that all of them have."""
    points = [dict(curve) for curve in curves if curve]
    epochs = sorted(set.intersection(*(set(one) for one in points))) if points else []
    return [(epoch, fmean(one[epoch] for one in points)) for epoch in epochs]


def _facts(run: RunResults) -> list[str]:
    """As in "mutual-kNN, k = 10, 225 test groups, chance .045", in parts."""
    from featcache.report.tables import score_facts

    known = score_facts(run.find(stage="trained", split="test", direction="", metric=run.metrics[0])[0], decimals)
    return [*(f"{fact}," for fact in known[:-1]), known[-1]]


def _score(row: "Row | None") -> str:
    return "–" if row is None else decimals(number(row))


def _interval(row: "Row | None") -> str:
    return (span(row.ci_low, row.ci_high) if row is not None else "") or "–"


def _interval_name(*runs: RunResults) -> str:
    """What the column of intervals holds: raw sides do not depend on the seed and keep their interval."""
    return "95 % interval, or range" if any(run.seeds for run in runs) else "95 % interval"
