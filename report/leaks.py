"""Leaks between splits in words, and the test split beside its clean part."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featcache.report.names import shorten
from featcache.report.runs import RunResults, metric_title
from featcache.report.seeds import score_text
from featcache.report.tables import contrast_table, retrieval_table, summary_table

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row

TEXT = "identical text"
NEAR, LOOKALIKE = "near-identical image", "look-alike image"


@dataclass(frozen=True)
class CleanRow:
    """One score on the test split, and on the part of it that does not leak."""

    metric: str
    label: str
    test: "Row"
    clean: "Row"


def plural(kind: str, count: int) -> str:
    """A kind of leak, in its plural where there are several."""
    if count == 1:
        return kind
    return "texts of repeated groups" if kind == "text of a repeated group" else f"{kind}s"


def groups_text(record: Mapping[str, Any]) -> str:
    """As in "100 of 345 test groups and 3 of 120 validation groups"."""
    counts = {split: record["groups"][split] for split in ("test", "validation") if split in record["groups"]}
    return " and ".join(f"{count:,} of {record['of'][split]:,} {split} groups" for split, count in counts.items())


def texts_text(record: Mapping[str, Any]) -> str:
    """That texts alone stand in two splits, which is not counted as a leak.

    Example:
        >>> texts_text({"texts": {"validation": 120, "test": 1}}).partition(",")[0]
        '120 validation texts and 1 test text stand in an earlier split too'
    """
    return (
        f"{_texts(record)} in an earlier split too, in groups whose picture was not "
        "found there; a text may be said of two pictures, so that alone is not counted as a leak"
    )


def look_alikes(record: Mapping[str, Any]) -> list[str]:
    """A sentence for each view whose copies cannot be told from look-alikes."""
    counts = record["rows"].get(LOOKALIKE, {})
    listed = " and ".join(f"{count:,} of {split}" for split, count in counts.items())
    return [
        f"{listed} {view} are near-identical to one of an earlier split, but so are {share:.0%} of the training {view} "
        "to one another: copies cannot be told from the look-alikes that this data set is made of, and none is counted "
        "as a leak"
        for view, share in record["look_alike"].items()
    ]


def sampled(record: Mapping[str, Any]) -> list[str]:
    """A sentence for each view of which a sample was looked at."""
    return [
        f"near-identical {view} were looked for among {looked:,} of {total:,} validation and test rows, a sample"
        for view, (looked, total) in record["looked_at"].items()
        if looked < total
    ]


def leak_caveats(run: RunResults) -> list[tuple[str, str]]:
    """What the splits of a run share, and what it does to its scores: each a sentence, and the same in one line."""
    record = run.config.get("split", {}).get("leaks")
    if record is None:
        words = "leaks between the splits were not looked for; train again."
        return [] if run.format == 1 else [(words, words)]
    kept, found = run.config.get("leaks") != "dropped", record["groups"]
    kinds = [
        f"{sum(counts.values()):,} {plural(kind, sum(counts.values()))}"
        for kind, counts in record["rows"].items()
        if kind not in (TEXT, LOOKALIKE)
    ]
    lines: list[tuple[str, str]] = []
    if found and kept:
        why = f" ({', '.join(kinds)})" if kinds else ""
        words = f"{groups_text(record)} stand in an earlier split too, or nearly{why}; leaks.parquet lists them."
        lines.append((words, f"{_counts(record)} groups stand in an earlier split too (leaks.parquet)."))
    if kept and "test" in found:
        words = f"scores on the test split count the groups that were found to leak.{_beside(run, record)}"
        lines.append((words, f"test scores count the groups that leak.{_verdicts_line(run)}"))
    if kept and "validation" in found:
        words = "the epoch was selected on a validation split that leaks."
        lines.append((words, words))
    if record["texts"]:
        lines.append((f"{texts_text(record)}.", f"{_texts(record)} in an earlier split too."))
    for view, words in zip(record["look_alike"], look_alikes(record), strict=True):
        lines.append((f"{words}.", f"copies of {shorten(view)} cannot be told from look-alikes; none is counted."))
    lines += [(f"{words}.", "near-identical rows were looked for in a sample only.") for words in sampled(record)]
    return lines


def _texts(record: Mapping[str, Any]) -> str:
    """As in "120 validation texts and 1 test text stand"."""
    counts = record["texts"]
    listed = " and ".join(f"{count:,} {split} {plural('text', count)}" for split, count in counts.items())
    return f"{listed} {'stands' if sum(counts.values()) == 1 else 'stand'}"


def _counts(record: Mapping[str, Any]) -> str:
    """As in "100 of 160 test and 5 of 45 validation"."""
    return " and ".join(
        f"{record['groups'][split]:,} of {record['of'][split]:,} {split}"
        for split in ("test", "validation")
        if split in record["groups"]
    )


def _beside(run: RunResults, record: Mapping[str, Any]) -> str:
    """The clean part in words: its scores beside the full ones, and what becomes of the verdicts."""
    left = record["of"]["test"] - record["groups"]["test"]
    rows = clean_table(run)
    if not rows:
        k = run.settings.get("k")
        return f" The {left:,} groups without those found are too few to be scored at k = {k}: there is no clean score."
    aligned = [row for row in rows if row.metric == run.metrics[0]]
    joint = [row for row in aligned if row.test.space == "joint"] or aligned
    chosen = joint[-1:] + [row for row in rows if row.metric in ("R@1", "R@10")]
    listed = "; ".join(
        f"{row.label} {metric_name(row.metric)} {score_text(row.clean)} instead of {score_text(row.test)}"
        for row in chosen
    )
    chances = " instead of ".join(f"{one.chance:.3f}" for one in (joint[-1].clean, joint[-1].test) if one.chance)
    smaller = f" That gallery is smaller: chance of {metric_name(run.metrics[0])} is {chances}." if chances else ""
    return f" On the {left:,} groups without those found: {listed}.{smaller}{_verdicts(run)}"


def _verdicts(run: RunResults) -> str:
    """Which verdicts are others on the clean part."""
    clean, unlike = _verdicts_that_differ(run)
    if not clean:
        return ""
    if not unlike:
        return f" All {clean} verdicts are the same there."
    return f" {len(unlike)} of {clean} verdicts differ there: {'; '.join(unlike)}."


def _verdicts_line(run: RunResults) -> str:
    clean, unlike = _verdicts_that_differ(run)
    return f" Without them {len(unlike)} of {clean} verdicts differ." if clean else ""


def _verdicts_that_differ(run: RunResults) -> tuple[int, list[str]]:
    """How many contrasts the clean part has, and those of which it says something else."""
    full = {(row.metric, row.contrast): row for row in contrast_table([run])}
    clean = {(row.metric, row.contrast): row for row in contrast_table([run], clean=True)}
    return len(clean), [
        f"{name} by {metric_title(metric)} {row.verdict} instead of {full[metric, name].verdict}"
        for (metric, name), row in clean.items()
        if row.verdict != full[metric, name].verdict
    ]


def clean_part(run: RunResults) -> str:
    """A clause for the sentence that opens the page: the joint's score on the clean part, where there is one."""
    from featcache.metrics.measure.row import CLEAN

    row = run.on_test("trained", "joint", run.metrics[0], split=CLEAN)
    if row is None:
        return ""
    return f" On the {row.n:,} test groups without those found to leak it reaches {score_text(row)}."


def clean_table(run: RunResults) -> list[CleanRow]:
    """Scores on the test split beside those on its clean part; none where nothing leaks or too little is left."""
    from featcache.metrics.measure.row import CLEAN

    rows: list[CleanRow] = []
    for space in summary_table([run]):
        for metric, test in space.scores.items():
            clean = run.on_test(test.stage, test.space, metric, test.against, split=CLEAN)
            if space.group in ("raw", "adapted", "joint", "between") and not space.derived and clean is not None:
                rows.append(CleanRow(metric, space.label, test, clean))
    rows.sort(key=lambda row: run.metrics.index(row.metric))
    for one in retrieval_table([run]):
        where = {"stage": one.stage, "direction": one.direction, "metric": one.metric, "split": CLEAN}
        for clean in run.find(**where)[:1] if one.stage == "trained" and one.metric in ("R@1", "R@10") else ():
            rows.append(CleanRow(one.metric, one.label, one.score, clean))
    return rows


def metric_name(metric: str) -> str:
    """What a reader calls a metric of alignment or a recall."""
    return metric if metric.startswith("R@") else metric_title(metric)


def sizes(run: RunResults) -> tuple[str, str]:
    """Titles of the two columns of a clean table."""
    record = run.config["split"]["leaks"]
    total, leaking = record["of"]["test"], record["groups"]["test"]
    return f"test, {total:,} groups", f"without the {leaking:,} found to leak"
