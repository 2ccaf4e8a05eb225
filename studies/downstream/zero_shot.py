"""Zero-shot classification by prompts: of a run's adapted image sides, and of encoders that share their space."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics.measure.row import Row
from featcache.metrics.probes.accuracy import class_codes
from featcache.metrics.probes.accuracy_rows import Predictions
from featcache.metrics.probes.zero_shot import class_vectors, zero_shot_classes
from featcache.studies.downstream.groups import TaskGroups
from featcache.studies.downstream.sources import LabelRule, RunOnData, other_views
from featcache.studies.downstream.spaces import TaskSpace
from featcache.trainer.run import apply

_PROMPTS = "prompts"  # how the name of a view of them begins


def zero_shot(
    cache: Cache, run: RunOnData, groups: TaskGroups, rule: LabelRule, named: Features | None = None
) -> tuple[list[Predictions], list[str]]:
    """Adapted image sides against class vectors of prompts through their side's adapter, trained and untrained.

    Prompts of a text side are rows of its encoder and layer, of none of the groups that are classified: those that the
    user names, else those of the view that is made from the label or whose groups are the classes.

    Args:
        cache: Where prompts of other views than the side's own are looked for.
        run: The run.
        groups: The groups of the task.
        rule: On labels.
        named: Prompts that the user names; of another encoder they are none of the run's.

    Returns:
        Predictions, and why prompts that are cached give none.
    """
    said, notes = list[Predictions](), list[str]()
    images = {side: each for side, each in run.sides.items() if each.modality == "image" and not rule.forbids(each)}
    for side, own in run.sides.items():
        if own.modality != "text":
            continue
        prompts, reasons = _prompts_of(cache, own, groups, rule, named)
        by = side if prompts is own else "" if prompts is None else _title(prompts)
        if prompts is not None and not images:
            reasons = [(prompts, "the run has no image side here that may be probed")]
        notes += [run.titled(f"no zero-shot by {side if one is own else _title(one)}: {why}") for one, why in reasons]
        if prompts is None or reasons:
            continue
        codes, _ = _classes(prompts, groups, rule.label)
        known = codes < len(groups.classes)
        for stage, adapters in run.weights().items():
            vectors = class_vectors(apply(run.run, prompts, side=side, adapters=adapters)[known], codes[known])
            for image, source in images.items():
                rows = groups.means(source, apply(run.run, source, side=image, adapters=adapters))
                space = f"adapted {image}" if stage == "trained" else f"untrained {image}"
                row = Row(run.titled(space), f"label {rule.label}", "zero_shot", None, stage=stage, split="test")
                said.append(_predicted(row, rows[groups.rows["test"]], vectors, int(known.sum()), by))
    return said, notes


def is_of_run(run: RunOnData, prompts: Features) -> bool:
    """Whether an array is of the encoder and layer of a text side of a run, so that its adapter takes the rows."""
    return any(each.modality == "text" and _same_encoder(each, prompts) for each in run.sides.values())


def _prompts_of(
    cache: Cache, own: Features, groups: TaskGroups, rule: LabelRule, named: Features | None
) -> tuple[Features | None, list[tuple[Features, str]]]:
    """The prompts of a text side, None for none; and why they, or arrays that might be prompts, are none."""
    reasons = list[tuple[Features, str]]()
    mine = named is not None and _same_encoder(own, named)
    for each in [named] if mine and named is not None else [own, *other_views(cache, own)]:
        _, lacking = _classes(each, groups, rule.label)
        if set(each.groups.tolist()) & set(groups.names.tolist()):
            if each.view.startswith(_PROMPTS):
                reasons.append((each, "it has rows of the groups that are classified"))
        elif each is named or rule.forbids(each) or set(each.groups.tolist()) <= set(groups.classes):
            return each, [(each, lacking)] if lacking else []
        elif each.view.startswith(_PROMPTS) or not lacking:
            unknown = f"nothing says that it is made from the label {rule.label} (--label-view {each.view})"
            reasons.append((each, lacking or unknown))
    return None, reasons + [(each, f"the side has {own.layer}") for each in _of_other_layers(cache, own)]


def _of_other_layers(cache: Cache, own: Features) -> list[Features]:
    """Prompts of a side's encoder of which its layer is not cached: one of their layers each."""
    there = [array for array in cache.arrays(own.dataset, f"{_PROMPTS}*", own.encoder) if array.is_complete]
    fitting = {array.name.view for array in there if array.name.layer == own.layer}
    firsts = {array.name.view: array for array in there if array.name.view not in fitting}
    return [cache.load_array(array) for array in firsts.values()]


def _same_encoder(first: Features, second: Features) -> bool:
    return (first.name, first.encoder_hash) == (second.name, second.encoder_hash)


def _title(features: Features) -> str:
    return f"{features.view}/{features.name}"


def shared_zero_shot(
    prompts: Features, spaces: Sequence[TaskSpace], groups: TaskGroups, label: str, *, alone: bool = True
) -> tuple[list[Predictions], list[str]]:
    """Raw spaces against class vectors of prompts that lie in the same space, as those of CLIP's two towers do.

    That the two share a space is the word of whoever names the prompts; spaces of another width are left out.

    Args:
        prompts: One row a prompt; its class is the label or, without one, its group.
        spaces: Of the task.
        groups: The groups of the task.
        label: Label column.
        alone: Whether they serve nothing else, such as a run.

    Raises:
        UsageError: If they are rows of the task, a class has no prompt, or they are alone and no space is as wide.
    """
    name = _title(prompts)
    if set(prompts.groups.tolist()) & set(groups.names.tolist()):
        raise UsageError(f"{name} has rows of the groups that are classified: no prompts\n  Name a view of prompts")
    codes, lacking = _classes(prompts, groups, label)
    if lacking:
        raise UsageError(f"no zero-shot by {name}: {lacking}\n  Its rows need the label {label}, or classes as groups")
    raw = [space for space in spaces if space.stage in ("raw", "reference") and space.values is not None]
    fitting = [space for space in raw if space.sources[0].width == prompts.width]
    if not fitting and alone:
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
