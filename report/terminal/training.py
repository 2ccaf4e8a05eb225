"""Training on the terminal: the answer, what was trained, and every table where --verbose asks for it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.report.runs import solution_text, training_choices
from featcache.report.terminal.console import console, print_table
from featcache.report.terminal.fitted import print_parts, print_path
from featcache.report.terminal.summary import show_answer, show_caveats, show_epochs, show_run_table, show_summary
from featcache.trainer.kinds import SOLVED_KINDS

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row
    from featcache.report.runs import RunResults
    from featcache.report.tables import VerdictRow
    from featcache.trainer.run import Run


def show_training(run: "Run", *, folder: bool = True) -> None:
    """Shows what was trained, and which epoch was kept; and with `folder`, where."""
    settings, reference = run.config["config"], run.config["reference"]
    sides = [f"{one['encoder']}/{one['layer']} ({name})" for name, one in run.config["sides"].items()]
    sides = [side + (" +" if side is not sides[-1] else "") for side in sides]
    against = f"against {reference['encoder']}/{reference['layer']}," if reference else "without a reference,"
    adapter = settings["adapter"]
    kinds = adapter if isinstance(adapter, str) else ", ".join(f"{side} {kind}" for side, kind in adapter.items())
    choices = [f"{choice}," for choice in training_choices(settings)]
    control = ", pairs shuffled: a control" if settings.get("shuffle_pairs") else ""
    seed = f"seed {settings['seed']}{control}"
    print_parts([f"{run.config['dataset']}:", *sides, against, f"{kinds} adapters,", *choices, seed])
    how = "was there already;" if run.already_there else f"trained in {run.config['seconds']:.1f} s;"
    print_parts([f"  {how}", *_kept(run)])
    if folder:
        print_path("  Run folder:", str(run.path))


def _kept(run: "Run") -> list[str]:
    """Which epoch or solution was kept, by what, and which groups were left out, in parts."""
    settings, chosen = run.config["config"], run.config.get("chosen", {})
    by = "as the last" if settings["select"] == "last" else f"by validation {settings['select']}"
    kept = f"epoch {run.config['selected_epoch']} of {settings['epochs']} kept {by}"
    if settings["adapter"] in SOLVED_KINDS:
        kept = f"in closed form; {solution_text(chosen)} chosen by validation {settings['select']}"
    parts = [kept]
    if "joint_weights" in chosen:
        weights = ", ".join(f"{side} {weight:.2f}" for side, weight in chosen["joint_weights"].items())
        parts.append(f"joint weights {weights}, chosen by validation alignment")
    left_out = [f"{count} {split}" for split, count in run.config["split"].get("left_out", {}).items()]
    parts += [f"left out as leaks: {' and '.join(left_out)} groups"] if left_out else []
    return [part + (";" if part is not parts[-1] else "") for part in parts]


def show_run(run: "Run", *, verbose: bool = False) -> None:
    """Shows one run: the answer, what was trained, what `show_runs` shows, and what may come next."""
    from featcache.report.runs import load_runs

    loaded = load_runs([run.path])
    show_answer(loaded[0])
    show_training(run, folder=False)
    _show_loaded(loaded, verbose=verbose)
    console().print()
    print_path("Run folder:", str(run.path))
    print_path("The page with every figure: featcache report", shlex.quote(str(run.path)))
    if not verbose:
        console().print("Every metric, verdict and finding: the same command with --verbose")


def show_runs(paths: Sequence[Path], *, verbose: bool = False) -> None:
    """Shows several runs: the headline run's answer, scores and verdicts, and a line for each.

    Runs that differ in their seed only are shown by means and ranges.

    Args:
        paths: Run folders.
        verbose: Show every metric of every run, every verdict and every finding instead.
    """
    from featcache.report.runs import load_runs
    from featcache.report.seeds import headline_run, pool_seeds

    runs = pool_seeds(load_runs(paths))
    show_answer(headline_run(runs)[0])
    _show_loaded(runs, verbose=verbose)


def _show_loaded(runs: Sequence["RunResults"], *, verbose: bool) -> None:
    from featcache.report.seeds import headline_run
    from featcache.report.sentences import selection
    from featcache.report.terminal.leaks import show_clean

    if verbose:
        _show_everything(runs)
        return
    headline, _ = headline_run(runs)
    for line in selection(runs):
        print_parts([f"{part};" for part in line.split("; ")[:-1]] + line.split("; ")[-1:])
    show_summary(headline)
    if len(runs) > 1:
        show_run_table(runs)
    show_epochs(headline)
    show_clean(runs, brief=True)
    show_caveats(runs)


def _show_everything(runs: Sequence["RunResults"]) -> None:
    """Alignment and retrieval on the test split, a column a run, the headline run's verdicts, and what they say."""
    from featcache.report.runs import metrics_of
    from featcache.report.seeds import headline_run
    from featcache.report.sentences import brief
    from featcache.report.terminal.leaks import show_clean

    for metric in metrics_of(runs):
        console().print()
        _show_alignment_of(runs, metric)
    _show_verdicts(runs)
    console().print()
    _show_retrieval_of(runs)
    show_clean(runs)
    show_epochs(headline_run(runs)[0])
    console().print("\nWhat the result says")
    for sentence in brief(runs):
        console().print(f"- {sentence}")


def _show_alignment_of(runs: Sequence["RunResults"], metric: str) -> None:
    """One metric of every space, a column a run; average and maximum of the parts stand below their sides."""
    from featcache.report.runs import metric_title, mixture_text
    from featcache.report.tables import summary_table

    table = summary_table(runs)
    labels = dict.fromkeys((row.group, row.space) for row in table if metric in row.scores)
    cells = {(row.run, row.group, row.space): row for row in table}
    lines = []
    for key in labels:
        rows = [cells.get((run.label, *key)) for run in runs]
        name = next(row.label for row in rows if row is not None)
        scores = [row.scores.get(metric) if row else None for row in rows]
        lines.append((name, *(_score(score, interval=len(runs) == 1) for score in scores)))
    print_table(("space", *(run.label for run in runs)), lines, title=_heading(runs, metric, metric_title(metric)))
    scores = [row.scores[metric] for row in table if metric in row.scores]
    notes = {"untrained": {row.note.partition(",")[0] for row in scores if row.stage == "untrained"}}
    notes["mixed"] = {mixture_text(row) for row in scores if row.stage == "mixed"}
    remarks = [f"{what}: {text}" for what, texts in notes.items() for text in sorted(texts) if text]
    if remarks:
        console().print(f"({'; '.join(remarks)})")


def _heading(runs: Sequence["RunResults"], metric: str, title: str) -> str:
    from featcache.report.tables import summary_table

    scores = [row.scores[metric] for row in summary_table(runs) if metric in row.scores]
    lows, highs, chances = (
        [value for row in scores if (value := getattr(row, name)) is not None]
        for name in ("null_low", "null_high", "chance")
    )
    facts = [f"{runs[0].config['split']['n']['test']} test groups"]
    if chances:
        spread = max(chances) - min(chances) > 5e-4
        facts.append(f"chance {min(chances):.3f}" + (f"–{max(chances):.3f}" if spread else ""))
    if lows and highs:
        facts.append(f"95 % of unrelated features {min(lows):.3f} to {max(highs):.3f}".replace("-", "−"))
    with_whom = f" with {runs[0].names()['reference']}" if runs[0].reference else " of the sides with each other"
    k = f", k = {runs[0].settings['k']}" if any(row.k for row in scores) else ""
    return f"{title[0].upper()}{title[1:]}{with_whom}{k}, {', '.join(facts)}"


def _show_verdicts(runs: Sequence["RunResults"]) -> None:
    """The contrasts of the headline run; those of exploratory runs stand on the page."""
    from featcache.report.runs import metric_title
    from featcache.report.seeds import headline_run
    from featcache.report.tables import contrast_table

    run, _ = headline_run(runs)
    rows = contrast_table([run])
    if not rows:
        return
    whose = f" of {run.label}, the headline run" if len(runs) > 1 else ""
    for metric in dict.fromkeys(row.metric for row in rows):
        lines = [_verdict_cells(row) for row in rows if row.metric == metric]
        columns = ["contrast", "verdict", "difference, 95 %", "p"]
        if run.seeds:
            columns, lines = [*columns[:2], "difference, range"], [line[:3] for line in lines]
        console().print()
        print_table(columns, lines, title=f"Verdicts{whose}, by {metric_title(metric)}, test split")
    of_seeds = "How many seeds have which verdict. " if run.seeds else ""
    console().print(f"{of_seeds}Verdicts follow p, corrected (Holm) for a metric's contrasts; the intervals are not.")


def _verdict_cells(row: "VerdictRow") -> tuple[str, str, str, str]:
    name = row.contrast + (f" ({row.binding})" if row.binding else "")
    between = ", " if len(row.rows) > 1 else " "
    return name, row.verdict, f"{row.difference}{between}{row.interval}", row.p


def _show_retrieval_of(runs: Sequence["RunResults"]) -> None:
    from featcache.report.tables import retrieval_table

    table = retrieval_table(runs)
    cells = {(row.run, row.stage, row.direction, row.metric): row.score for row in table}
    keys = dict.fromkeys((row.stage, row.direction, row.label, row.metric) for row in table)
    lines = []
    for stage, direction, label, metric in keys:
        scores = [cells.get((run.label, stage, direction, metric)) for run in runs]
        chances = [score.chance for score in scores if score and score.chance is not None]
        if metric in ("R@1", "R@10"):
            chance = f"{chances[0]:.3f}" if chances else "–"
            lines.append((f"{label}, {metric}, {stage}", *(_score(score, interval=True) for score in scores), chance))
    if lines:
        print_table(("retrieval on test", *(run.label for run in runs), "chance"), lines)


def _score(row: "Row | None", *, interval: bool) -> str:
    """A score; with its interval, if it shall have one, and always with its range over seeds."""
    from featcache.report.runs import number
    from featcache.report.seeds import interval_text, is_range

    if row is None:
        return "–"
    text = interval_text(row) if interval or is_range(row) else ""
    text = f"({text.removeprefix('range ')})" if is_range(row) else text
    return f"{number(row):.3f} {text}".strip()
