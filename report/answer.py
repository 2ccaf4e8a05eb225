"""The answer of a report in one sentence, how sure it is, and which run it is of."""

from collections.abc import Sequence

from featcache.report.leaks import clean_part
from featcache.report.runs import RunResults, metric_title
from featcache.report.seeds import headline_run, score_text
from featcache.report.sentences import caveats, listed
from featcache.report.tables import VerdictRow, contrast_table

_OPENINGS = {"above": "Yes", "below": "No"}
_FAMILY = "after Holm's correction over {count} contrasts"


def answer(run: RunResults) -> str:
    """Whether the joint space comes closer to the reference than its raw parts, by the run's first metric.

    The verdicts are those of the contrasts with the best raw part (H2) and with the average of raw parts (H1). Without
    a reference: how the sides agree.

    Args:
        run: One run, or several seeds as one.
    """
    control = "A control, trained on shuffled pairs. " if run.is_control else ""
    if not run.reference:
        return control + _agreement(run)
    metric, reference = run.metrics[0], run.names()["reference"]
    best, average = (raw_contrast(run, kind, metric) for kind in ("max", "average"))
    if best is None:
        return f"{control}{_score(run)}; this run has no verdicts.{clean_part(run)}"
    binding = best.binding.removeprefix("raw ")
    whose = f"its best raw part, {binding}" if binding else "its best raw part"
    opening = _OPENINGS.get(unanimous(best), "Cannot tell")
    sentence = f"{opening}: by {metric_title(metric)} the joint space is {_place(best)} {reference} than {whose}"
    if opening == "Cannot tell":
        sentence = f"{opening} whether the joint space is closer to {reference} than {whose} by {metric_title(metric)}"
        sentence += _seeds(best)
    sentence += f" ({best.difference} {best.interval})"
    if average is not None:
        sentence += f"; against the average of its raw parts: {average.text()}"
    return f"{control}{sentence}.{clean_part(run)}"


def raw_contrast(run: RunResults, kind: str, metric: str) -> VerdictRow | None:
    """The contrast of the joint with the best ("max") or the "average" of its raw parts; None where there is none."""
    rows = [row for row in contrast_table([run]) if row.metric == metric and row.topic == "parts"]
    return next((row for row in rows if row.rows[0].kind == kind and row.rows[0].parts.startswith("raw ")), None)


def unanimous(row: VerdictRow) -> str:
    """The verdict that all seeds of a row share, or ""."""
    verdicts = {one.verdict for one in row.rows}
    return verdicts.pop() if len(verdicts) == 1 else ""


def certainty(run: RunResults) -> str:
    """How sure the answer is: what its interval and p are of, and whether the other metrics agree."""
    best = raw_contrast(run, "max", run.metrics[0]) if run.reference else None
    if best is None:
        return "Scores with their intervals only: verdicts need a reference and the contrasts that a training measures."
    row = best.rows[0]
    size = f" ({row.n:,} of them)" if row.n else ""
    if run.seeds:
        of = f"Each of {len(run.seeds)} seeds is judged on the same test groups{size}; the range is over seeds"
    else:
        count = sum(one.family == row.family and one.metric == row.metric for one in run.contrasts)
        p = f"p {best.p if best.p.startswith('<') else '= ' + best.p} {_FAMILY.format(count=count)}"
        of = f"95 % interval over other test groups{size}; {p}; about these trained adapters, not other seeds"
    return f"{of}. {_other_metrics(run)}".strip()


def choice(runs: Sequence[RunResults]) -> str:
    """Which of several runs the answer is of, and why; "" for one."""
    return headline_run(runs)[1]


def warnings(runs: Sequence[RunResults]) -> list[str]:
    """The caveats of the headline run and of comparing it, without the word that opens each."""
    first, _ = headline_run(runs)
    own = caveats([first]) + [line for line in caveats(runs) if "do not share" in line]
    lines = [line.removeprefix("Caveat: ") for line in own]
    return [line[0].upper() + line[1:] for line in lines]


def _place(best: VerdictRow) -> str:
    where = "closer to" if unanimous(best) == "above" else "farther from"
    return (f"in each of {len(best.rows)} seeds " if len(best.rows) > 1 else "") + where


def _seeds(best: VerdictRow) -> str:
    return f", for {best.verdict} seeds" if len(best.rows) > 1 else ""


def _other_metrics(run: RunResults) -> str:
    first = raw_contrast(run, "max", run.metrics[0])
    others = [(metric, raw_contrast(run, "max", metric)) for metric in run.metrics[1:]]
    same, unlike = [], []
    for metric, row in others:
        if row is not None and first is not None:
            (same if row.verdict == first.verdict else unlike).append((metric, row))
    texts = [f"The same by {listed([metric_title(metric) for metric, _ in same])}."] if same else []
    texts += [f"By {metric_title(metric)}: {row.text()}." for metric, row in unlike]
    return " ".join(texts)


def _score(run: RunResults) -> str:
    row = run.on_test("trained", "joint", run.metrics[0])
    assert row is not None  # run.metrics are those that the joint has
    return f"The joint space reaches {score_text(row)} against {run.names()['reference']}"


def _agreement(run: RunResults) -> str:
    metric, clauses = run.metrics[0], []
    for a, b in run.pairs:
        raw, trained = (run.on_test(stage, a, metric, b) for stage in ("raw", "trained"))
        if trained is not None:
            before = f", from {score_text(raw)} raw" if raw is not None else ""
            clauses.append(f"{run.space_name(a)} and {run.space_name(b)} agree at {score_text(trained)}{before}")
    return f"After training, {'; '.join(clauses)} ({metric_title(metric)}); without a reference there is no verdict."
