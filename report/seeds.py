"""Runs that differ in their seed only, as one run of means and ranges; and the headline run among several."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from featcache.report.runs import REFERENCE, RunResults, adapter_name, number, unique_labels

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row

_RANGE = "range over"
_IDENTITY = ("stage", "space", "against", "metric", "direction", "split", "k")
_USUAL = 0.7
_RECALL = "mean R@10 of all directions"
_CRITERIA = {"retrieval": _RECALL, "alignment": "mutual-kNN of the joint space", "last": _RECALL}


def pool_seeds(runs: Sequence[RunResults]) -> list[RunResults]:
    """Puts runs that differ in their seed only together; the others stay as they are.

    Of such runs every score is a mean, and `ci_low` and `ci_high` are the lowest and the highest (`is_range`). A score
    that does not depend on the seed stays as it is; maps and kernels are those of the first run.

    A training that was measured twice, once beside a control, is one run: the one with the control.

    Args:
        runs: Loaded runs.

    Returns:
        Runs in the order of the first of each.
    """
    runs = _once_controlled(runs)
    groups: dict[tuple[Any, ...], list[RunResults]] = {}
    for run in runs:
        key = _recipe(run)
        again = 0  # a second run of the same seed is another run, not another seed
        while any(run.settings.get("seed") == one.settings.get("seed") for one in groups.get((*key, again), [])):
            again += 1
        groups.setdefault((*key, again), []).append(run)
    pooled = [members[0] if len(members) == 1 else _pooled(members) for members in groups.values()]
    if len(pooled) == len(runs):
        return pooled
    labels = unique_labels([_name(run) for run in pooled], pooled)
    return [replace(run, label=label) for run, label in zip(pooled, labels, strict=True)]


def _once_controlled(runs: Sequence[RunResults]) -> list[RunResults]:
    """The runs without those that another, with a control, repeats: equal features, groups, settings and seed."""
    controlled = {_training(run) for run in runs if run.config.get("control")}
    return [run for run in runs if run.config.get("control") or _training(run) not in controlled]


def _training(run: RunResults) -> tuple[Any, ...]:
    return *_recipe(run), run.settings.get("seed")


def is_range(row: "Row") -> bool:
    """Whether `ci_low` and `ci_high` of a row are the range over seeds, not an interval."""
    return row.interval.startswith(_RANGE)


def interval_text(row: "Row", form: str = ".3f") -> str:
    """The interval or range of a row, or "" where it has none."""
    if row.ci_low is None or row.ci_high is None:
        return ""
    if is_range(row):
        return f"range {row.ci_low:{form}}–{row.ci_high:{form}}"
    return f"[{row.ci_low:{form}}, {row.ci_high:{form}}]"


def score_text(row: "Row") -> str:
    """A score with its interval, as in "0.356 [0.321, 0.390]", or as "mean 0.355, range 0.348–0.361"."""
    interval = interval_text(row)
    return f"mean {number(row):.3f}, {interval}" if is_range(row) else f"{number(row):.3f} {interval}".strip()


def same_test(runs: Sequence[RunResults]) -> bool:
    """Whether all runs measured the same features on the same test groups with the same k."""
    return len({_test_identity(run) for run in runs}) == 1


def same_groups(runs: Sequence[RunResults]) -> bool:
    """Whether all runs, of whatever sides, were measured on the same test groups against one reference, with one k."""
    return len({(repr(run.reference), *_test_identity(run)[1:]) for run in runs}) == 1


def same_validation(runs: Sequence[RunResults]) -> bool:
    """Whether all runs select their epoch on the same features and validation groups by the same criterion."""
    return len({_validation_identity(run) for run in runs}) == 1


def same_features(runs: Sequence[RunResults]) -> bool:
    """Whether all runs read the same arrays, under the same names of sides."""
    return len({_features_identity(run) for run in runs}) == 1


def by_test(runs: Sequence[RunResults]) -> list[list[RunResults]]:
    """The runs whose scores compare, together: same features, test groups and k; in the order of the first of each."""
    groups: dict[tuple[object, ...], list[RunResults]] = {}
    for run in runs:
        groups.setdefault(_test_identity(run), []).append(run)
    return [*groups.values()]


def by_validation(runs: Sequence[RunResults]) -> list[RunResults]:
    """The runs from best to worst by what each selects its epoch by on validation, those without it last.

    The order of runs that select by other criteria, or that are controls, says nothing of them: see `headline_run`.
    """
    values = {id(run): on_validation(run) for run in runs}
    return sorted(runs, key=lambda run: -1e9 if (value := values[id(run)]) is None else value, reverse=True)


def varied_settings(runs: Sequence[RunResults]) -> dict[str, list[str]]:
    """Settings other than the seed in which the runs differ -> the value of each run as text, "–" where it has none.

    The one with most values comes first, of equals adapter and loss.
    """
    names = dict.fromkeys(name for run in runs for name in run.settings if name != "seed")
    texts = {name: [_setting_text(run.settings.get(name)) for run in runs] for name in names}
    differ = {name: values for name, values in texts.items() if len(set(values)) > 1}
    kinds = ("adapter", "loss")
    return dict(sorted(differ.items(), key=lambda item: (-len(set(item[1])), item[0] not in kinds)))


def recipe_names(runs: Sequence[RunResults]) -> dict[str, str]:
    """Label of each run -> its adapter and the settings in which it is unlike most of the others, unique among them.

    A setting of which no value is that of seven runs in ten is named of every run.
    """
    varied = independent_settings(runs)
    names: list[str] = []
    for place, run in enumerate(runs):
        whole = adapter_name(run)
        parts = [whole.split(", ")[0] if isinstance(run.settings.get("adapter"), str) else whole]
        parts += ["pairs shuffled"] if run.is_control and "shuffle_pairs" not in varied else []
        for name, values in varied.items():
            usual = max(dict.fromkeys(values), key=values.count)
            if name != "adapter" and (values[place] != usual or values.count(usual) < _USUAL * len(runs)):
                parts.append(_choice_text(name, values[place]))
        names.append(", ".join(filter(None, parts)))
    unique = unique_labels(names, runs)
    return {run.label: name for run, name in zip(runs, unique, strict=True)}


def independent_settings(runs: Sequence[RunResults]) -> dict[str, list[str]]:
    """As `varied_settings`, the adapter first, without those that follow from another, as a temperature from a loss."""
    varied, kept = varied_settings(runs), dict[str, list[str]]()
    for name in sorted(varied, key=lambda name: name != "adapter"):
        values = varied[name]
        follows = any(len({*zip(values, others, strict=True)}) == len(set(others)) for others in kept.values())
        if not follows:
            kept[name] = values
    return kept


def _choice_text(name: str, value: str) -> str:
    """A setting with its value in a few words: kinds by themselves, others behind their name."""
    if value in ("–", "no"):
        return ""
    words = name.replace("_", " ")
    if name == "shuffle_pairs":
        return "pairs shuffled"
    return words if value == "yes" else value if name == "loss" else f"{words} {value}"


def _setting_text(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def over_seeds(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean of one value a seed, with its 95 % interval by Student's t; no interval for one seed, or without spread."""
    from featcache.studies.experiments.seeds import student

    mean, low, high, _ = student(values)
    return mean, low, high


def kept_loss(run: RunResults) -> list[float]:
    """The validation loss of the adapters kept, one a seed that has it."""
    found = [
        one.find(stage="trained", metric="loss", split="validation", epoch=one.selected_epoch)[:1] for one in run.each
    ]
    return [number(row) for rows in found for row in rows]


def on_validation(run: RunResults) -> float | None:
    """What the run selects its epoch by (R@10 where it kept the last), at that epoch on validation; mean over seeds."""
    values: list[float] = []
    for one in run.each:
        rows = one.find(stage="trained", split="validation", epoch=one.selected_epoch)
        if run.settings.get("select") == "alignment":
            rows = [row for row in rows if (row.space, row.against, row.metric) == ("joint", REFERENCE, "mutual_knn")]
        else:
            rows = [row for row in rows if row.metric == "R@10"]
        if not rows:
            return None
        values.append(fmean(number(row) for row in rows))
    return fmean(values)


@dataclass(frozen=True, eq=False)
class Headline:
    """The run that a report opens with, and how it was chosen.

    Args:
        run: The run.
        candidates: Runs that it was chosen among: those that are no controls, if any.
        scores: What each scores on validation by the criterion that all share; none where they share no criterion.
        place: As in "the best of 3 on validation"; "" for one candidate, and where nothing chose.
    """

    run: RunResults
    candidates: Sequence[RunResults]
    scores: Sequence[float] = ()
    place: str = ""


def choose_headline(runs: Sequence[RunResults]) -> Headline:
    """The best run on validation by the criterion that its own epoch was selected by.

    A control (pairs shuffled) is chosen only among controls. Where the runs do not share validation groups, features
    and criterion, none is better: the first stands.

    Args:
        runs: From `pool_seeds`.
    """
    candidates = [run for run in runs if not run.is_control] or [*runs]
    values = [on_validation(run) for run in candidates]
    known = [value for value in values if value is not None]
    if len(candidates) == 1 or len(known) < len(values) or not same_validation(candidates):
        return Headline(candidates[0], candidates)
    tied = known.count(max(known))
    place = f"the first of {tied} that tie" if tied > 1 else f"the best of {len(known)}"
    return Headline(candidates[known.index(max(known))], candidates, known, f"{place} on validation")


def headline_run(runs: Sequence[RunResults]) -> tuple[RunResults, str]:
    """The run that `choose_headline` chooses, and how, in words; "" for one run."""
    chosen = choose_headline(runs)
    headline, candidates, why = chosen.run, chosen.candidates, ""
    if chosen.place:
        listed = ", ".join(f"{run.label} {value:.3f}" for run, value in zip(candidates, chosen.scores, strict=True))
        why = f", {chosen.place} ({_CRITERIA[_select(headline)]}: {listed})"
    elif len(candidates) > 1:
        why = ", the first named: the runs do not share the validation groups and criterion to be selected by"
        if same_groups(candidates) and not same_features(candidates):
            why = ", the first named: the runs join different sides"
    rest = {"exploratory": [run for run in candidates if run is not headline]}
    rest["control"] = [run for run in runs if run not in candidates]
    listed = "".join(f"; {what}: {', '.join(run.label for run in those)}" for what, those in rest.items() if those)
    return headline, f"The headline run is {headline.label}{why}{listed}." if len(runs) > 1 else ""


def _select(run: RunResults) -> str:
    return str(run.settings.get("select", "retrieval"))


def _name(run: RunResults) -> str:
    return adapter_name(run) + (f" ({len(run.seeds)} seeds)" if run.seeds else "")


def _recipe(run: RunResults) -> tuple[Any, ...]:
    settings = {name: value for name, value in run.settings.items() if name != "seed"}
    return run.format, repr(sorted(settings.items())), _test_identity(run), _validation_identity(run)


def _pooled(runs: Sequence[RunResults]) -> RunResults:
    from featcache.metrics.measure.row import CLEAN

    groups: dict[tuple[Any, ...], list[Row]] = {}
    for run in runs:
        for row in run.scores:
            # weights are selected at another epoch for each seed; a mixture is tried with many weights on validation
            others = () if row.split in ("test", CLEAN) else (row.epoch, row.weights)
            groups.setdefault((*(getattr(row, name) for name in _IDENTITY), *others), []).append(row)
    scores = tuple(_mean_row(rows) for rows in groups.values())
    return replace(runs[0], scores=scores, contrasts=(), seeds=tuple(runs))


def _mean_row(rows: "Sequence[Row]") -> "Row":
    values = [number(row) for row in rows]
    if min(values) == max(values):
        return rows[0]
    lows, highs, chances = (
        [value for row in rows if (value := getattr(row, name)) is not None]
        for name in ("null_low", "null_high", "chance")
    )
    return replace(
        rows[0],
        value=fmean(values),
        chance=fmean(chances) if chances else None,
        null_low=min(lows, default=None),
        null_high=max(highs, default=None),
        ci_low=min(values),
        ci_high=max(values),
        interval=f"{_RANGE} {len(rows)} seeds",
        estimand="",
        note="",
    )


def _features_identity(run: RunResults) -> str:
    arrays = {**run.config["sides"], REFERENCE: run.reference or {}}
    parts = ("view", "encoder", "layer", "digest", "root")
    return repr([(name, *(array.get(part) for part in parts)) for name, array in arrays.items()])


def _test_identity(run: RunResults) -> tuple[object, ...]:
    rows = run.find(stage="trained", split="test", direction="", metric=run.metrics[0])
    hashes = run.config.get("split", {}).get("hashes", {})
    size = (rows[0].n, run.settings.get("k"), tuple(run.metrics))
    return _features_identity(run), str(run.config.get("dataset")), str(hashes.get("test")), size


def _validation_identity(run: RunResults) -> tuple[object, ...]:
    hashes = run.config.get("split", {}).get("hashes", {})
    return _features_identity(run), str(run.config.get("dataset")), str(hashes.get("validation")), _select(run)
