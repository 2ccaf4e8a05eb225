"""Zero-shot classification by prompts: of a run's adapted image sides, and of encoders that share their space."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics.measure.row import Row
from featcache.metrics.probes.accuracy import class_codes
from featcache.metrics.probes.accuracy_rows import Predictions
from featcache.metrics.probes.zero_shot import class_vectors, zero_shot_classes
from featcache.studies.downstream.groups import TaskGroups
from featcache.studies.downstream.sources import LabelRule, RunOnData
from featcache.studies.downstream.spaces import TaskSpace
from featcache.trainer.run import apply


def zero_shot(run: RunOnData, groups: TaskGroups, rule: LabelRule) -> tuple[list[Predictions], list[str]]:
    """Adapted image sides against class vectors of prompts through their side's adapter, trained and untrained."""
    said, notes, named = list[Predictions](), list[str](), set(groups.names.tolist())
    images = {side: each for side, each in run.sides.items() if each.modality == "image" and not rule.forbids(each)}
    prompts = {
        side: each
        for side, each in run.sides.items()
        if each.modality == "text" and rule.forbids(each) and not named & set(each.groups.tolist())
    }
    for side, features in prompts.items():
        codes, lacking = _classes(features, groups, rule.label)
        known = codes < len(groups.classes)
        if lacking:
            notes.append(f"no zero-shot by {side}: {lacking}")
            continue
        for stage, adapters in run.weights().items():
            vectors = class_vectors(apply(run.run, features, side=side, adapters=adapters)[known], codes[known])
            for image, source in images.items():
                rows = groups.means(source, apply(run.run, source, side=image, adapters=adapters))
                space = f"adapted {image}" if stage == "trained" else f"untrained {image}"
                row = Row(run.titled(space), f"label {rule.label}", "zero_shot", None, stage=stage, split="test")
                said.append(_predicted(row, rows[groups.rows["test"]], vectors, int(known.sum()), side))
    return said, notes


def shared_zero_shot(
    prompts: Features, spaces: Sequence[TaskSpace], groups: TaskGroups, label: str
) -> tuple[list[Predictions], list[str]]:
    """Raw spaces against class vectors of prompts that lie in the same space, as those of CLIP's two towers do.

    That the two share a space is the word of whoever names the prompts; spaces of another width are left out.

    Args:
        prompts: One row a prompt; its class is the label or, without one, its group.
        spaces: Of the task.
        groups: The groups of the task.
        label: Label column.

    Raises:
        UsageError: If they are rows of the task, a class has no prompt, or no space is as wide.
    """
    name = f"{prompts.view}/{prompts.name}"
    if set(prompts.groups.tolist()) & set(groups.names.tolist()):
        raise UsageError(f"{name} has rows of the groups that are classified: no prompts\n  Name a view of prompts")
    codes, lacking = _classes(prompts, groups, label)
    if lacking:
        raise UsageError(f"no zero-shot by {name}: {lacking}\n  Its rows need the label {label}, or classes as groups")
    raw = [space for space in spaces if space.stage in ("raw", "reference") and space.values is not None]
    fitting = [space for space in raw if space.sources[0].width == prompts.width]
    if not fitting:
        widths = ", ".join(f"{space.name} {space.sources[0].width}" for space in raw)
        raise UsageError(
            f"{name} is {prompts.width} wide, and no space is: {widths}\n"
            "  Name prompts by the text encoder that shares a space with one of them"
        )
    known = codes < len(groups.classes)
    vectors, said = class_vectors(prompts.values[known], codes[known]), list[Predictions]()
    for space in fitting:
        assert space.values is not None
        row = Row(space.name, f"label {label}", "zero_shot", None, stage=space.stage, split="test")
        said.append(_predicted(row, space.values[groups.rows["test"]], vectors, int(known.sum()), name))
    left = [space.name for space in raw if space not in fitting]
    return said, [f"no zero-shot of {', '.join(left)}: not as wide as the prompts"] if left else []


def _classes(prompts: Features, groups: TaskGroups, label: str) -> tuple[np.ndarray, str]:
    """Class of each prompt, numbers behind the classes for none; and which are lacking, "" for none."""
    named = prompts.labels[label] if label in prompts.labels else np.full(len(prompts), "")
    if not any(named.tolist()):
        named = prompts.groups
    codes = class_codes(named, groups.classes)
    lacking = len(groups.classes) - len(np.unique(codes[codes < len(groups.classes)]))
    return codes, f"{lacking} of {len(groups.classes)} classes have no prompt" if lacking else ""


def _predicted(row: Row, test: np.ndarray, vectors: np.ndarray, prompts: int, by: str) -> Predictions:
    how = f"{len(vectors)} mean vectors of {prompts} prompts by {by}, cosine"
    row = replace(row, convention=how, d=vectors.shape[1], d_against=vectors.shape[1])
    return Predictions(row, zero_shot_classes(test, vectors))
