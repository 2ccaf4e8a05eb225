"""Linear probe, k-nearest neighbours and zero-shot classification of a data set's labels, space by space."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.metrics.measure.contrasts import Contrast
from featcache.metrics.measure.row import Row
from featcache.metrics.probes.accuracy import class_codes, majority_class
from featcache.metrics.probes.accuracy_rows import Predictions, accuracy_contrasts, accuracy_rows
from featcache.metrics.probes.logistic import PENALTIES, choose_logistic
from featcache.metrics.probes.nearest import TEMPERATURE, knn_classes
from featcache.metrics.probes.zero_shot import class_vectors, zero_shot_classes
from featcache.studies.adapters.embed import JOINT
from featcache.studies.downstream.groups import TaskGroups, choose_label, task_groups
from featcache.studies.downstream.sources import LabelRule, RunOnData, runs_on_data
from featcache.studies.downstream.spaces import TaskSpace, baseline_of, caveats, task_spaces
from featcache.studies.downstream.tables import TaskResult, array_names, plain, write_task_table
from featcache.studies.tables import check_table_path
from featcache.trainer.run import apply

CHANCE = "majority class"
FAMILY = "probe"


@dataclass(frozen=True)
class ProbeSettings:
    """How a data set's labels are probed.

    Args:
        label: Label column; None for the first.
        k: Neighbours that vote.
        temperature: Of their weights.
        label_views: Views that are made from the label, beside those that the data set's entry names.
        penalties: L2 penalties of the linear probe, of which validation chooses.
        width: Of random projections, where there is no run.
        halves: Random halves of the test groups behind intervals of balanced accuracy and differences.
        seed: Of random projections and a drawn validation split.
    """

    label: str | None = None
    k: int = 20
    temperature: float = TEMPERATURE
    label_views: tuple[str, ...] = ()
    penalties: tuple[float, ...] = PENALTIES
    width: int = 256
    halves: int = 200
    seed: int = 0


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

    Training rows are those of split train alone, the penalty is chosen on validation, and test is read once. A space
    that has seen a view which is made from the label is left out: its row has no value, and a note that says why.

    Args:
        cache: The cache.
        dataset: Data set with labels and splits; that of the runs, or another.
        arrays: `[view/]encoder[/layer.pooling][@digest]` of further arrays.
        runs: Run folders.
        settings: How.
        out: Where a tidy table is written, as Parquet; None for nowhere.
        on_space: Called with the name of each space before it is probed.

    Raises:
        UsageError: If neither arrays nor runs are given, the label is unknown, or nothing may be probed.
        FeaturesNotCached, RunMissing, RunDamaged, NotPaired: As `runs_on_data` and `task_groups`.
        MetricError: If there are fewer training groups than neighbours, or one class.
    """
    check_table_path(out)
    if not arrays and not runs:
        raise UsageError("nothing to probe\n  Name arrays, or a run with --run")
    opened = runs_on_data(cache, dataset, runs)
    loaded = {name: cache.load(dataset, name) for name in arrays}
    every = [*(features for run in opened for features in run.sides.values()), *loaded.values()]
    joints = [name for name, features in loaded.items() if features.layer == JOINT]
    if joints:
        raise UsageError(
            f"{joints[0]} is a joint space, which has seen views that its own does not name\n"
            "  Name its run instead, with --run: then no side that is made from the label enters it"
        )
    rule = LabelRule(dataset, choose_label(every, settings.label), settings.label_views)
    references = [run.reference for run in opened if run.reference is not None]
    used = [features for features in [*every, *references] if not rule.forbids(features)]
    if not used:
        raise UsageError(f"{rule.reason(every[0])}, and there is no other\n  Name an array of another view")
    drawn = opened[0].run.config["split"].get("drawn_validation", []) if opened else []
    groups = task_groups(used, rule.label, drawn=drawn, seed=settings.seed)
    spaces = task_spaces(groups, opened, loaded, rule, width=settings.width, seed=settings.seed)
    predictions, unpredicted = list[Predictions](), list[Row]()
    for space in spaces:
        if space.values is None:
            unpredicted.append(replace(_row(space, rule.label, groups), metric="probe_accuracy"))
            continue
        if on_space is not None:
            on_space(space.name)
        predictions += _classified(space, groups, settings, rule.label)
    for run in opened:
        shot, notes = _zero_shot(run, groups, rule)
        predictions += shot
        groups.notes.extend(notes)
    true = groups.codes[groups.rows["test"]]
    predictions.append(_majority(groups, rule.label))
    baseline = baseline_of(spaces)
    contrasts = [
        Contrast(space.name, (baseline,), family=FAMILY)
        for space in spaces
        if space.values is not None and space.name != baseline
    ]
    result = TaskResult(
        dataset,
        f"label {rule.label}",
        accuracy_rows(predictions, true, repeats=settings.halves) + unpredicted,
        accuracy_contrasts(predictions, true, contrasts, repeats=settings.halves),
        baseline,
        {split: len(rows) for split, rows in groups.rows.items()},
        len(groups.classes),
        {space.name: array_names(space.sources) for space in spaces},
        [*groups.notes, *(note for run in opened for note in run.notes), *caveats(spaces)],
        out,
    )
    shared = {"command": "probe", "dataset": dataset, "overlay": used[0].overlay, "runs": ", ".join(map(str, runs))}
    write_task_table(out, result, {**shared, **plain(replace(settings, label=rule.label))})
    return result


def _row(space: TaskSpace, label: str, groups: TaskGroups) -> Row:
    width = None if space.values is None else space.values.shape[1]
    row = Row(space.name, f"label {label}", "", None, d=width, n=len(groups.rows["test"]), stage=space.stage)
    return replace(row, split="test", note=space.note)


def _classified(space: TaskSpace, groups: TaskGroups, settings: ProbeSettings, label: str) -> list[Predictions]:
    """Linear probe, weighted and plain neighbours of one space."""
    assert space.values is not None
    train, validation, test = (space.values[groups.rows[split]] for split in ("train", "validation", "test"))
    codes = {split: groups.codes[rows] for split, rows in groups.rows.items()}
    fitted = choose_logistic(train, codes["train"], (validation, codes["validation"]), penalties=settings.penalties)
    row = _row(space, label, groups)
    edge = fitted.penalty in (min(settings.penalties), max(settings.penalties)) and len(settings.penalties) > 1
    remarks = [
        space.note,
        "the penalty lies at the end of those tried" if edge else "",
        "" if fitted.converged else "the fit had not converged",
    ]
    convention = f"logistic, L2 {fitted.penalty:g} chosen on validation, columns standardised"
    note = "; ".join(filter(None, remarks))
    said = [Predictions(replace(row, metric="probe", convention=convention, note=note), fitted.classes(test))]
    for way, temperature, votes in (
        ("knn", settings.temperature, f"cosine, votes exp(cos / {settings.temperature:g})"),
        ("knn_majority", None, "cosine, one vote each"),
    ):
        classes = knn_classes(test, train, codes["train"], k=settings.k, temperature=temperature)
        said.append(Predictions(replace(row, metric=way, convention=votes, k=settings.k), classes))
    return said


def _majority(groups: TaskGroups, label: str) -> Predictions:
    train, test = groups.codes[groups.rows["train"]], groups.rows["test"]
    most = majority_class(train)
    row = Row(CHANCE, f"label {label}", "probe", None, stage="chance", split="test")
    row = replace(row, convention="most frequent training class", note=f"always {groups.classes[most]}")
    return Predictions(row, np.full(len(test), most))


def _zero_shot(run: RunOnData, groups: TaskGroups, rule: LabelRule) -> tuple[list[Predictions], list[str]]:
    """Adapted image sides against class vectors of prompts through their side's adapter, trained and untrained."""
    said, notes, named = list[Predictions](), list[str](), set(groups.names.tolist())
    images = {side: each for side, each in run.sides.items() if each.modality == "image" and not rule.forbids(each)}
    prompts = {
        side: each
        for side, each in run.sides.items()
        if each.modality == "text" and rule.forbids(each) and not named & set(each.groups.tolist())
    }
    for side, features in prompts.items():
        labels = features.labels[rule.label] if rule.label in features.labels else np.full(len(features), "")
        codes = class_codes(labels, groups.classes)
        known = codes < len(groups.classes)
        lacking = len(groups.classes) - len(np.unique(codes[known]))
        if lacking:
            notes.append(f"no zero-shot by {side}: {lacking} of {len(groups.classes)} classes have no prompt")
            continue
        for stage, adapters in run.weights().items():
            vectors = class_vectors(apply(run.run, features, side=side, adapters=adapters)[known], codes[known])
            for image, source in images.items():
                rows = groups.means(source, apply(run.run, source, side=image, adapters=adapters))
                space = f"adapted {image}" if stage == "trained" else f"untrained {image}"
                row = Row(run.titled(space), f"label {rule.label}", "zero_shot", None, stage=stage, split="test")
                how = f"{len(vectors)} mean vectors of {np.count_nonzero(known)} prompts by {side}, cosine"
                row = replace(row, convention=how, d=vectors.shape[1], d_against=vectors.shape[1])
                said.append(Predictions(row, zero_shot_classes(rows[groups.rows["test"]], vectors)))
    return said, notes
