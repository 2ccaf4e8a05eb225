"""Linear probes, nearest neighbours, few-shot and zero-shot classification of a data set's labels, space by space."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics.measure.contrasts import Contrast
from featcache.metrics.measure.row import ContrastRow, Row
from featcache.metrics.probes.accuracy import majority_class
from featcache.metrics.probes.accuracy_rows import Predictions, accuracy_contrasts, accuracy_rows
from featcache.metrics.probes.drawn_rows import drawn_contrasts, drawn_rows
from featcache.selectors import AUTO, parse_selector
from featcache.studies.adapters.embed import JOINT
from featcache.studies.alignment.grid import layers_of
from featcache.studies.downstream.classified import Classified, classified, fitting_ks
from featcache.studies.downstream.groups import TaskGroups, choose_label, task_groups
from featcache.studies.downstream.layer_choice import best_layer
from featcache.studies.downstream.settings import ProbeSettings
from featcache.studies.downstream.sources import LabelRule, RunOnData, label_rule, runs_on_data
from featcache.studies.downstream.spaces import TaskSpace, baseline_of, caveats, task_spaces
from featcache.studies.downstream.tables import TaskResult, array_names, plain, write_task_table
from featcache.studies.downstream.zero_shot import is_of_run, shared_zero_shot, zero_shot
from featcache.studies.leaks import Source, find_leaks
from featcache.studies.tables import check_table_path

CHANCE = "majority class"
FAMILY = "probe"


def probe(
    cache: Cache,
    dataset: str,
    arrays: Sequence[str],
    runs: Sequence[Path],
    settings: ProbeSettings,
    *,
    out: Path | None = None,
    on_space: Callable[[str], None] | None = None,
) -> TaskResult:
    """Probes every space of some runs and arrays for a label, on the same groups.

    Training rows are those of split train alone; penalties and numbers of neighbours are chosen on validation or, where
    there is no such split, by inner folds of train; test is read once. A space that has seen a view which is made from
    the label is left out: its row has no value, and a note that says why. Test groups that stand in training too are
    counted in a caveat.

    Args:
        cache: The cache.
        dataset: Data set with labels and splits; that of the runs, or another.
        arrays: `[view/]encoder[/layer.pooling][@digest]` of further arrays; parts may hold globs, as in `vit/*`, and
            the layer may be "auto", as in `best_layer`.
        runs: Run folders.
        settings: How.
        out: Where a tidy table is written, as Parquet; None for nowhere.
        on_space: Called with the name of each space before it is probed.

    Raises:
        UsageError: If neither arrays nor runs are given, the label is unknown, or nothing may be probed.
        UsageError, DataInvalid: As `label_rule`.
        FeaturesNotCached, RunMissing, RunDamaged, NotPaired: As `runs_on_data` and `task_groups`.
        MetricError: If there are fewer training groups than neighbours, or one class.
    """
    check_table_path(out)
    if not arrays and not runs:
        raise UsageError("nothing to probe\n  Name arrays, or a run with --run")
    opened = runs_on_data(cache, dataset, runs)
    named = _expanded(cache, dataset, arrays)
    candidates = {name: _every_layer(cache, dataset, name) for name in named if parse_selector(name).layer == AUTO}
    loaded = {name: candidates[name][0] if name in candidates else cache.load(dataset, name) for name in named}
    every = [*(features for run in opened for features in run.sides.values()), *loaded.values()]
    joints = [name for name, features in loaded.items() if features.layer == JOINT]
    if joints:
        raise UsageError(
            f"{joints[0]} is a joint space, which has seen views that its own does not name\n"
            "  Name its run instead, with --run: then no side that is made from the label enters it"
        )
    rule = label_rule(cache, dataset, every, choose_label(every, settings.label), settings.label_views)
    references = [run.reference for run in opened if run.reference is not None]
    used = [features for features in [*every, *references] if not rule.forbids(features)]
    if not used:
        raise UsageError(f"{rule.reason(every[0])}, and there is no other\n  Name an array of another view")
    drawn = opened[0].run.config["split"].get("drawn_validation", []) if opened else []
    groups = task_groups(used, rule.label, drawn=drawn, folds=settings.folds, seed=settings.seed)
    settings = replace(settings, label=rule.label, k=fitting_ks(groups, settings.k))
    loaded |= _chosen(candidates, groups, rule, settings)
    spaces = task_spaces(groups, opened, loaded, rule, width=settings.width, seed=settings.seed)
    said, unpredicted = Classified([], [], []), list[Row]()
    for space in spaces:
        row = _row(space, rule.label, groups)
        if space.values is None:
            unpredicted.append(replace(row, metric="probe_accuracy"))
            continue
        if on_space is not None:
            on_space(space.name)
        said = _joined(said, classified(space, groups, settings, row))
    prompts = None if settings.prompts is None else cache.load(dataset, settings.prompts)
    shot, notes = _zero_shot(cache, opened, spaces, groups, rule, prompts)
    said.judged.extend(shot)
    groups.notes.extend(notes)
    said.judged.append(_majority(groups, rule.label))
    baseline = baseline_of(spaces)
    names = [space.name for space in spaces if space.values is not None]
    rows, contrasts = _measured(said, groups, names, baseline, settings)
    result = TaskResult(
        dataset,
        f"label {rule.label}",
        rows + unpredicted,
        contrasts,
        baseline,
        {split: len(rows) for split, rows in groups.rows.items()},
        len(groups.classes),
        {space.name: array_names(space.sources) for space in spaces},
        [*groups.notes, *(note for run in opened for note in run.notes), *caveats(spaces), *_leaks(used, groups)],
        out,
    )
    shared = {"command": "probe", "dataset": dataset, "overlay": used[0].overlay, "runs": ", ".join(map(str, runs))}
    write_task_table(out, result, {**shared, **plain(settings)})
    return result


def _zero_shot(
    cache: Cache, runs: Sequence[RunOnData], spaces: Sequence[TaskSpace], groups: TaskGroups, rule: LabelRule,
    named: Features | None,
) -> tuple[list[Predictions], list[str]]:  # fmt: skip
    """Zero-shot of runs, and of raw spaces by the prompts that are named."""
    made = [zero_shot(cache, run, groups, rule, named) for run in runs]
    if named is not None:
        of_run = any(is_of_run(run, named) for run in runs)
        made.append(shared_zero_shot(named, spaces, groups, rule.label, alone=not of_run))
    return [one for shot, _ in made for one in shot], [note for _, notes in made for note in notes]


def _chosen(
    candidates: Mapping[str, list[Features]], groups: TaskGroups, rule: LabelRule, settings: ProbeSettings
) -> dict[str, Features]:
    """The layer of each array that leaves it open, with a note; of one that may not be probed any."""
    chosen = dict[str, Features]()
    for name, layers in candidates.items():
        if not rule.forbids(layers[0]):
            chosen[name], note = best_layer(layers, groups, settings)
            groups.notes.append(note)
    return chosen


def _every_layer(cache: Cache, dataset: str, name: str) -> list[Features]:
    return layers_of(cache, dataset, str(replace(parse_selector(name), layer=None)))


def _expanded(cache: Cache, dataset: str, names: Sequence[str]) -> list[str]:
    """The names, those with globs as the arrays that they match, layers by their depth."""
    every = list[str]()
    for name in names:
        if not any(sign in name for sign in "*?["):
            every.append(name)
            continue
        matches = [array.name for array in cache.select(dataset, name) if array.is_complete]
        paths = dict.fromkeys(
            (one.view, one.encoder, one.layer) for one in matches if not one.layer.startswith("graph.")
        )
        every += ["/".join(path) for path in sorted(paths, key=lambda path: (*path[:2], _depth(path[2]), path[2]))]
    return [*dict.fromkeys(every)]


def _depth(layer: str) -> float:
    number = layer.partition(".")[0]
    return float(number) if number.isdecimal() else float("inf")


def _joined(first: Classified, second: Classified) -> Classified:
    return Classified(first.judged + second.judged, first.by_k + second.by_k, first.few + second.few)


def _measured(
    said: Classified, groups: TaskGroups, names: Sequence[str], baseline: str, settings: ProbeSettings
) -> tuple[list[Row], list[ContrastRow]]:
    """Accuracies of every way, and differences with the baseline, corrected together."""
    true, halves = groups.codes[groups.rows["test"]], settings.halves
    asked = [Contrast(name, (baseline,), family=FAMILY) for name in names if name != baseline]
    rows = accuracy_rows(said.judged, true, repeats=halves)
    rows += accuracy_rows(said.by_k, true, repeats=halves, balanced=(False,))
    rows += drawn_rows(said.few, true)
    contrasts = accuracy_contrasts(said.judged, true, asked, repeats=halves)
    contrasts += drawn_contrasts(said.few, true, asked)
    return rows, contrasts


def _leaks(used: Sequence[Features], groups: TaskGroups) -> list[str]:
    """A caveat of the test groups whose picture, recording or text stands in training or validation too."""
    splits = {str(groups.names[row]): split for split, rows in groups.rows.items() for row in rows.tolist()}
    leaks = find_leaks([Source.of(each) for each in used], splits)
    leaking = sorted(leaks.groups.get("test", ()))
    if not leaking:
        return []
    first = next(row for row in leaks.rows if row.group == leaking[0])
    return [
        f"Caveat: {len(leaking):,} of {len(groups.rows['test']):,} test groups stand in training or validation too, "
        f"such as {leaking[0]} ({first.kind}: {first.pair}): neighbours and probes may remember them"
    ]


def _row(space: TaskSpace, label: str, groups: TaskGroups) -> Row:
    width = None if space.values is None else space.values.shape[1]
    row = Row(space.name, f"label {label}", "", None, d=width, n=len(groups.rows["test"]), stage=space.stage)
    return replace(row, split="test", note=space.note)


def _majority(groups: TaskGroups, label: str) -> Predictions:
    train, test = groups.codes[groups.rows["train"]], groups.rows["test"]
    most = majority_class(train)
    row = Row(CHANCE, f"label {label}", "probe", None, stage="chance", split="test")
    row = replace(row, convention="most frequent training class", note=f"always {groups.classes[most]}")
    return Predictions(row, np.full(len(test), most))
