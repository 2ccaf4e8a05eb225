"""Spaces of a downstream task by name: raw, adapted, joint and untrained, references, random projections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from featcache.features import Features
from featcache.studies.downstream.groups import TaskGroups
from featcache.studies.downstream.sources import LabelRule, RunOnData
from featcache.trainer.adapters import Adapters, statistics
from featcache.trainer.run import apply


@dataclass(frozen=True, eq=False)
class TaskSpace:
    """One space, one row a group of the task.

    Args:
        name: Unique.
        stage: "raw", "trained", "untrained", "random" or "reference".
        values: [g, d] float32; None where the space is left out.
        sources: The arrays that it comes from.
        note: Why it is left out, or what is to be said of it.
    """

    name: str
    stage: str
    values: np.ndarray | None
    sources: tuple[Features, ...]
    note: str = ""


def task_spaces(
    groups: TaskGroups,
    runs: Sequence[RunOnData],
    arrays: Mapping[str, Features],
    rule: LabelRule | None,
    *,
    width: int,
    seed: int,
) -> list[TaskSpace]:
    """Every space of a task, those that are left out among them, with the reason.

    Raw: group means of cached rows. Adapted: each row embedded, averaged over its group, of unit length. Joint: of the
    adapted sides that are not made from the label; where fewer than two are left there is none, and the adapted image
    side stands for it. Random: the standardised raw side times a Gaussian matrix.

    Args:
        groups: The groups of the task.
        runs: Runs, on this data set.
        arrays: Name -> further arrays, such as a reference.
        rule: What may not be probed; None where the task has no label.
        width: Of random projections, where there is no run.
        seed: Of random projections.
    """
    spaces: dict[str, TaskSpace] = {}
    for run in runs:
        for side, features in run.sides.items():
            name = _raw_name(f"raw {side}", features, spaces)
            if name not in spaces:
                spaces[name] = _raw(name, "raw", features, groups, rule)
                wide = run.run.adapters().width
                spaces |= _random(name.replace("raw", "random", 1), spaces[name], groups, wide, seed)
        for stage, adapters in run.weights().items():
            spaces |= {space.name: space for space in _of_run(run, stage, adapters, groups, rule)}
    references = {run.titled("reference"): run.reference for run in runs if run.reference is not None}
    for name, features in {**references, **arrays}.items():
        plain = [space.sources[0] for space in spaces.values() if space.stage in ("raw", "reference")]
        if not any(_same(each, features) for each in plain):
            stage = "raw" if name in arrays else "reference"
            spaces[name] = _raw(name, stage, features, groups, rule)
            if name in arrays and not runs:
                spaces |= _random(f"random {name}", spaces[name], groups, width, seed)
    return [*spaces.values()]


def _raw_name(name: str, features: Features, spaces: Mapping[str, TaskSpace]) -> str:
    """The side's name; with view, encoder and layer where another run calls another array so."""
    other = spaces.get(name)
    return name if other is None or _same(other.sources[0], features) else f"raw {features.view}/{features.name}"


def _same(a: Features, b: Features) -> bool:
    return (a.digest, a.root) == (b.digest, b.root)


def _raw(name: str, stage: str, features: Features, groups: TaskGroups, rule: LabelRule | None) -> TaskSpace:
    if rule is not None and rule.forbids(features):
        return TaskSpace(name, stage, None, (features,), rule.reason(features))
    return TaskSpace(name, stage, groups.means(features), (features,), _hint(rule, [features]))


def _random(name: str, raw: TaskSpace, groups: TaskGroups, width: int, seed: int) -> dict[str, TaskSpace]:
    if raw.values is None:
        return {}
    values = torch.from_numpy(raw.values)
    mean, std = statistics(values[torch.from_numpy(groups.rows["train"])])
    standardised = (values - mean) / torch.where(std > torch.finfo(torch.float32).eps * mean.abs(), std, 1.0)
    matrix = np.random.default_rng(seed).standard_normal((raw.values.shape[1], width)) / raw.values.shape[1] ** 0.5
    projected = (standardised.numpy().astype(np.float64) @ matrix).astype(np.float32)
    return {name: TaskSpace(name, "random", projected, raw.sources, raw.note)}


def _of_run(
    run: RunOnData, stage: str, adapters: Adapters, groups: TaskGroups, rule: LabelRule | None
) -> list[TaskSpace]:
    before = "" if stage == "trained" else "untrained "
    spaces, means = list[TaskSpace](), dict[str, torch.Tensor]()
    taught = _taught(run, rule) if stage == "trained" else ""
    for side, features in run.sides.items():
        name = run.titled(f"adapted {side}" if stage == "trained" else f"untrained {side}")
        if rule is not None and rule.forbids(features):
            spaces.append(TaskSpace(name, stage, None, (features,), rule.reason(features)))
            continue
        rows = groups.means(features, apply(run.run, features, side=side, adapters=adapters))
        means[side] = torch.nn.functional.normalize(torch.from_numpy(rows))
        spaces.append(
            TaskSpace(name, stage, means[side].numpy(), (features,), _joined(_hint(rule, [features]), taught))
        )
    used = tuple(run.sides[side] for side in means)
    name = run.titled(f"{before}joint")
    if len(means) < 2:
        left = [side for side in run.run.sides if side not in means]
        why = [rule.reason(run.sides[side]) if rule and side in run.sides else "not cached" for side in left]
        reasons = "; ".join(f"{side} {reason}" for side, reason in zip(left, why, strict=True))
        stands = next((f"; adapted {side} stands for it" for side in means), "")
        spaces.append(TaskSpace(name, stage, None, (), f"no joint of two sides: {reasons}{stands}"))
        return spaces
    with torch.inference_mode():
        joint = adapters.join(means).numpy()
    missing = [side for side in run.run.sides if side not in means]
    note = f"joint of {', '.join(means)} without {', '.join(missing)}" if missing else ""
    spaces.append(TaskSpace(name, stage, joint, used, _joined(note, _hint(rule, used), taught)))
    return spaces


def _taught(run: RunOnData, rule: LabelRule | None) -> str:
    """What a side has learnt of the label beside a side that was made from it, on this very data set."""
    if rule is None or rule.dataset != run.run.config["dataset"]:
        return ""
    made = [side for side, features in run.sides.items() if rule.forbids(features)]
    return f"trained beside {', '.join(made)}, which told it the label of the training groups" if made else ""


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _hint(rule: LabelRule | None, arrays: Sequence[Features]) -> str:
    hints = [] if rule is None else [rule.hint(features) for features in arrays]
    return "; ".join(dict.fromkeys(filter(None, hints)))


def baseline_of(spaces: Sequence[TaskSpace]) -> str:
    """The raw image side; without one the first raw space."""
    raw = [space for space in spaces if space.stage == "raw" and space.values is not None]
    images = [space for space in raw if space.sources[0].modality == "image"]
    return next((space.name for space in [*images, *raw]), "")


def caveats(spaces: Sequence[TaskSpace]) -> list[str]:
    """What nobody may miss: spaces that are left out, and what else has seen the label, if in part."""
    left = [f"Caveat: {space.name}: {space.note}" for space in spaces if space.values is None]
    told = dict[str, list[str]]()
    for space in spaces:
        if space.values is not None and space.note and space.stage != "random":
            told.setdefault(space.note, []).append(space.name)
    return left + [f"Caveat: {', '.join(names)}: {note}" for note, names in told.items()]
