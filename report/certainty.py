"""How sure the answer of a report is, which run it is of, and what to beware of."""

from collections.abc import Sequence

from featcache.report.answer import answer
from featcache.report.caveats import caveats
from featcache.report.leaks import clean_part
from featcache.report.runs import RunResults, metric_title
from featcache.report.seeds import choose_headline, headline_run, recipe_names
from featcache.report.sentences import listed
from featcache.report.tables import raw_contrast

_FEW = 4  # runs that a sentence can name
_FAMILY = "after Holm's correction over all {count} contrasts of the metric"


def whole_answer(run: RunResults) -> str:
    """The answer, the verdict against the average of the raw parts, and the clean part's score, if there is one."""
    average = raw_contrast(run, "average", run.metrics[0]) if run.reference and not run.is_control else None
    beside = f" Against the average of its raw parts: {average.text()}." if average is not None else ""
    return f"{answer(run)}.{beside}{clean_part(run)}"


def certainty(run: RunResults) -> str:
    """How sure the answer is: what its interval and p are of, and whether the other metrics agree."""
    if run.is_control:
        return "A control answers nothing by itself: name its folder as --control of a training on true pairs."
    best = raw_contrast(run, "max", run.metrics[0]) if run.reference else None
    if best is None:
        return "Scores with their intervals only: verdicts need a reference and the contrasts that a training measures."
    row = best.rows[0]
    size = f" ({row.n:,} of them)" if row.n else ""
    if run.seeds:
        of = f"Each of {len(run.seeds)} seeds is judged on the same test groups{size}; the range is over seeds"
    else:
        family = (row.family, row.metric, row.split)
        count = sum((one.family, one.metric, one.split) == family for one in run.contrasts)
        p = f"p {best.p if best.p.startswith('<') else '= ' + best.p} {_FAMILY.format(count=count)}"
        of = f"95 % interval over other test groups{size}; {p}; about these trained adapters, not other seeds"
    return f"{of}. {_other_metrics(run)}".strip()


def choice(runs: Sequence[RunResults]) -> str:
    """Which of several runs the answer is of, and why; of more than a few, without the scores of all; "" for one."""
    if len(runs) <= _FEW:
        return headline_run(runs)[1]
    chosen, how = choose_headline(runs), "the first named"
    if chosen.place:
        how = f"{chosen.place} ({max(chosen.scores):.3f}); the table of runs has the others"
    return f"The headline run is {recipe_names(runs)[chosen.run.label]}, {how}."


def warnings(runs: Sequence[RunResults]) -> list[str]:
    """The caveats of the headline run and of comparing it, without the word that opens each."""
    first, _ = headline_run(runs)
    own = caveats([first]) + [line for line in caveats(runs) if "do not share" in line]
    lines = [line.removeprefix("Caveat: ") for line in own]
    return [line[0].upper() + line[1:] for line in lines]


def _other_metrics(run: RunResults) -> str:
    first = raw_contrast(run, "max", run.metrics[0])
    others = [(metric, raw_contrast(run, "max", metric)) for metric in run.metrics[1:]]
    same, unlike = [], []
    for metric, row in others:
        if row is not None and first is not None:
            (same if row.verdict == first.verdict else unlike).append((metric, row))
    texts = [f"The same verdict by {listed([metric_title(metric) for metric, _ in same])}."] if same else []
    texts += [f"By {metric_title(metric)}: {row.text()}." for metric, row in unlike]
    return " ".join(texts)
