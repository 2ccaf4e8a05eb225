"""Pretrained heads of the reference, fed with other spaces: a ridge map to the head's input, then the head."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featcache.cache import Cache
from featcache.data.datasets import extract_command
from featcache.errors import FeaturesNotCached, UsageError
from featcache.metrics.measure.contrasts import Contrast
from featcache.metrics.measure.row import Row
from featcache.metrics.probes.accuracy import majority_class
from featcache.metrics.probes.accuracy_rows import (
    Predictions,
    accuracy_contrasts,
    accuracy_rows,
    explained_row,
    hit_row,
)
from featcache.metrics.probes.linear_map import ALPHAS, fit_ridge_map
from featcache.studies.downstream.groups import TaskGroups, task_groups
from featcache.studies.downstream.head_files import Head, read_head
from featcache.studies.downstream.head_inputs import HeadInputs, head_inputs
from featcache.studies.downstream.sources import LabelRule, runs_on_data
from featcache.studies.downstream.spaces import TaskSpace, baseline_of, caveats, task_spaces
from featcache.studies.downstream.tables import TaskResult, array_names, plain, write_task_table
from featcache.studies.tables import check_table_path

OWN, CHANCE = "own features", "most frequent decision"
FAMILY = "heads"
NUMBERS = "index"  # the label column that published heads of ImageNet count by


@dataclass(frozen=True)
class HeadSettings:
    """How a head is fed.

    Args:
        norm: Checkpoint of the backbone with the final norm, where the head reads blocks; None: its own, or solved.
        blocks: Blocks, from 1, that the head reads; none for those of the published heads.
        untrained: Encoder name of the same backbone with random weights; None for "<backbone>-random0".
        label: Label column with the numbers of the head's outputs; None for "index", where there is one.
        alphas: Penalties of the ridge maps, of which validation chooses.
        width: Of random projections, where there is no run.
        halves: Random halves of the test groups behind intervals of differences.
        seed: Of random maps, shuffled pairs and a drawn validation split.
    """

    norm: Path | None = None
    blocks: tuple[int, ...] = ()
    untrained: str | None = None
    label: str | None = None
    alphas: tuple[float, ...] = ALPHAS
    width: int = 256
    halves: int = 200
    seed: int = 0


@dataclass(frozen=True, eq=False)
class _Task:
    """A head with its inputs, one row a group, and what it says of them."""

    head: Head
    groups: TaskGroups
    inputs: np.ndarray
    logits: np.ndarray
    settings: HeadSettings

    def rows(self, split: str) -> np.ndarray:
        return self.groups.rows[split]

    @property
    def decisions(self) -> np.ndarray:
        """[test groups] what the head decides of its own features."""
        return self.logits[self.rows("test")].argmax(axis=1)


def feed_head(
    cache: Cache,
    dataset: str,
    backbone: str,
    head_path: Path,
    arrays: Sequence[str],
    runs: Sequence[Path],
    settings: HeadSettings,
    *,
    out: Path | None = None,
    on_space: Callable[[str], None] | None = None,
) -> TaskResult:
    """Feeds a head with every space of some runs and arrays, in place of its own features.

    From each space a ridge map to the head's input is fitted on training groups; validation chooses its penalty, and
    the head decides of the test groups. Always measured is the agreement with the head's own decisions on the
    backbone's features; with labels that number the outputs, its accuracy too.

    Controls: a random map and a map fitted on shuffled pairs, from the joint (else the first space); raw sides, which
    are unimodal; the backbone with random weights, mapped and as it is, where it is cached; the most frequent decision.

    Args:
        cache: The cache.
        dataset: Data set with train and test splits, of which the backbone's layers are cached.
        backbone: `[view/]encoder` that the head was trained on.
        head_path: As for `read_head`.
        arrays: `[view/]encoder[/layer.pooling][@digest]` of further arrays.
        runs: Run folders.
        settings: How.
        out: Where a tidy table is written, as Parquet; None for nowhere.
        on_space: Called with the name of each space before it is mapped.

    Raises:
        WeightsMissing, WeightsInvalid, UsageError, FeaturesNotCached: As `read_head` and `head_inputs`.
        RunMissing, RunDamaged, NotPaired: As `runs_on_data` and `task_groups`.
    """
    check_table_path(out)
    head = read_head(head_path)
    own = head_inputs(cache, dataset, backbone, head, norm=settings.norm, blocks=settings.blocks)
    opened = runs_on_data(cache, dataset, runs)
    loaded = {name: cache.load(dataset, name) for name in arrays}
    if not opened and not loaded:
        raise UsageError("nothing to feed the head with\n  Name arrays, or a run with --run")
    untrained, remark = _untrained(cache, dataset, backbone, head, settings)
    used = [features for run in opened for features in run.sides.values()] + [*loaded.values()]
    label = settings.label or NUMBERS
    rule = LabelRule(dataset, label) if label in own.rows.labels else None
    used = [own.rows, *(features for features in used if rule is None or not rule.forbids(features))]
    used += [run.reference for run in opened if run.reference is not None]
    used += [] if untrained is None else [untrained.rows]
    drawn = opened[0].run.config["split"].get("drawn_validation", []) if opened else []
    groups = task_groups(used, None, drawn=drawn, seed=settings.seed)
    spaces = task_spaces(groups, opened, loaded, rule, width=settings.width, seed=settings.seed)
    inputs = groups.means(own.rows, own.values).astype(np.float64)
    task = _Task(head, groups, inputs, head.logits(inputs), settings)
    logits = {}
    for space, outputs in _outputs(task, spaces, untrained):
        if on_space is not None:
            on_space(space.name)
        logits[space.name] = (space, outputs)
    result = _result(task, dataset, backbone, own, logits, spaces, out)
    notes = [
        *caveats(spaces),
        own.note,
        remark,
        *groups.notes,
        *(note for run in opened for note in run.notes),
        *_meaning(head),
    ]
    result = replace(result, notes=[*filter(None, notes), *result.notes])
    shared = {"command": "heads", "dataset": dataset, "overlay": own.rows.overlay, "runs": ", ".join(map(str, runs))}
    shared |= {"backbone": backbone, "head": str(head_path), "head_digest": head.digest, "head_input": own.recipe}
    write_task_table(out, result, {**shared, **plain(settings)})
    return result


def parse_blocks(text: str | None) -> tuple[int, ...]:
    """Numbers of blocks in a text; none for None.

    Raises:
        UsageError: If it is anything else.

    Example:
        >>> parse_blocks("3,6,9,12"), parse_blocks(None)
        ((3, 6, 9, 12), ())
    """
    words = [] if text is None else [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f"--blocks {text}: wanted numbers of blocks from 1, as in 3,6,9,12")
    return tuple(int(word) for word in words)


def _untrained(
    cache: Cache, dataset: str, backbone: str, head: Head, settings: HeadSettings
) -> tuple[HeadInputs | None, str]:
    """Inputs from the backbone with random weights; without them, what makes them."""
    view, _, encoder = backbone.rpartition("/")
    name = settings.untrained or f"{encoder}-random0"
    try:
        # the random network's own final norm: the trained one is no part of it
        selector = name if "/" in name or not view else f"{view}/{name}"
        bare = replace(head, norm=None)
        return head_inputs(cache, dataset, selector, bare, blocks=settings.blocks), ""
    except FeaturesNotCached:
        if settings.untrained is not None:
            raise
        command = extract_command(dataset, encoder)
        return None, f"no control of an untrained backbone: {name} is not cached ({command} --random 0)"


def _outputs(
    task: _Task, spaces: Sequence[TaskSpace], untrained: HeadInputs | None
) -> Iterator[tuple[TaskSpace, np.ndarray]]:
    """Each space with the head's outputs [test groups, c] from it; controls last."""
    there = [space for space in spaces if space.values is not None]
    for space in there:
        yield _mapped(task, space)
    chosen = next((space for space in there if space.name.endswith("joint") and space.stage == "trained"), there[0])
    yield _mapped(task, replace(chosen, name=f"shuffled {chosen.name}", stage="control"), shuffled=True)
    yield replace(chosen, name=f"random map of {chosen.name}", stage="control"), _random_map(task, chosen)
    if untrained is not None:
        values = task.groups.means(untrained.rows, untrained.values)
        bare = TaskSpace("untrained backbone", "control", values, (untrained.rows,))
        yield _mapped(task, bare)
        outputs = task.head.logits(values[task.rows("test")])
        yield replace(bare, name="untrained backbone, unmapped", note="its own features, no map"), outputs


def _mapped(task: _Task, space: TaskSpace, *, shuffled: bool = False) -> tuple[TaskSpace, np.ndarray]:
    """The head's outputs from a ridge map of a space; its penalty goes into the note."""
    assert space.values is not None
    train, validation = task.rows("train"), task.rows("validation")
    partner, partner_of_validation = train, validation
    if shuffled:
        rng = np.random.default_rng(task.settings.seed)
        partner, partner_of_validation = rng.permutation(train), rng.permutation(validation)
    held = space.values[validation], task.inputs[partner_of_validation]
    fitted = fit_ridge_map(space.values[train], task.inputs[partner], held, alphas=task.settings.alphas)
    how = f"ridge {fitted.alpha:g}" + (", pairs shuffled" if shuffled else "")
    note = "; ".join(filter(None, [space.note, how]))
    return replace(space, note=note), task.head.logits(fitted(space.values[task.rows("test")]))


def _random_map(task: _Task, space: TaskSpace) -> np.ndarray:
    """Outputs from a Gaussian map whose results have the mean and spread of the head's inputs."""
    assert space.values is not None
    train = task.rows("train")
    values = space.values.astype(np.float64) - space.values[train].mean(axis=0, dtype=np.float64)
    matrix = np.random.default_rng(task.settings.seed).standard_normal((values.shape[1], task.inputs.shape[1]))
    mapped = values @ matrix
    spread = np.maximum(mapped[train].std(axis=0), 1e-12)
    mapped = mapped / spread * task.inputs[train].std(axis=0) + task.inputs[train].mean(axis=0)
    return task.head.logits(mapped[task.rows("test")])


def _result(
    task: _Task,
    dataset: str,
    backbone: str,
    own: HeadInputs,
    outputs: dict[str, tuple[TaskSpace, np.ndarray]],
    spaces: Sequence[TaskSpace],
    out: Path | None,
) -> TaskResult:
    true, answers = task.decisions, _answers(own, task)
    against, repeats = f"{task.head.kind} head of {backbone}", task.settings.halves
    mean = task.logits[task.rows("train")].mean(axis=0)
    predictions, rows, labelled = list[Predictions](), list[Row](), list[Predictions]()
    own_space = TaskSpace(OWN, "reference", task.inputs, (own.rows,))
    for space, logits in [(own_space, task.logits[task.rows("test")]), *outputs.values()]:
        width = None if space.values is None else space.values.shape[1]
        row = Row(space.name, against, "", None, d=width, d_against=task.head.outputs, stage=space.stage)
        row = replace(row, split="test", convention=own.recipe, note=space.note)
        if space.name != OWN:
            predictions.append(Predictions(replace(row, metric="head_agreement"), logits.argmax(axis=1)))
            explained = replace(row, metric="head_logits_r2")
            rows.append(explained_row(explained, logits, task.logits[task.rows("test")], mean, repeats=repeats))
        if answers is not None:
            labelled.append(Predictions(replace(row, metric="head"), logits.argmax(axis=1)))
            five = np.argsort(-logits, axis=1, kind="stable")[:, :5]
            hits = (five == answers[:, None]).any(axis=1)
            rows.append(hit_row(replace(row, metric="head_top5_accuracy", k=5), hits))
    predictions.append(_most_frequent(task, against))
    judged = [space for space, _ in outputs.values()]
    baseline = baseline_of(spaces)
    contrasts = [Contrast(each.name, (baseline,), family=FAMILY) for each in judged if each.name != baseline]
    plain_rows = accuracy_rows(predictions, true, repeats=repeats, balanced=(False,))
    differences = accuracy_contrasts(predictions, true, contrasts, repeats=repeats, balanced=(False,))
    if answers is not None:
        plain_rows += accuracy_rows(labelled, answers, repeats=repeats, balanced=(False,))
        differences += accuracy_contrasts(labelled, answers, contrasts, repeats=repeats, balanced=(False,))
    return TaskResult(
        dataset,
        f"{task.head.kind} head {task.head.path.name} on {own.recipe} of {backbone}",
        plain_rows + rows,
        differences,
        baseline,
        {split: len(numbers) for split, numbers in task.groups.rows.items()},
        task.head.outputs,
        {space.name: array_names(space.sources) for space in (own_space, *judged)},
        [] if answers is not None else [f"no accuracy: {_unlabelled(own, task)}"],
        out,
    )


def _most_frequent(task: _Task, against: str) -> Predictions:
    most = majority_class(task.logits[task.rows("train")].argmax(axis=1))
    row = Row(CHANCE, against, "head_agreement", None, stage="chance", split="test", note=f"always output {most}")
    return Predictions(row, np.full(len(task.rows("test")), most))


def _answers(own: HeadInputs, task: _Task) -> np.ndarray | None:
    """[test groups] the output that is right of each; None without labels that number the outputs."""
    label = task.settings.label or NUMBERS
    if label not in own.rows.labels:
        if task.settings.label is not None:
            there = ", ".join(own.rows.labels) or "none"
            raise UsageError(f"no label {label!r} in {own.rows.dataset}; it has {there}")
        return None
    of = dict(zip(own.rows.groups.tolist(), own.rows.labels[label].tolist(), strict=True))
    texts = [str(of[group]) for group in task.groups.names[task.rows("test")].tolist()]
    if not all(text.isdecimal() and int(text) < task.head.outputs for text in texts):
        if task.settings.label is not None:
            raise UsageError(f"label {label} does not number the head's {task.head.outputs} outputs, from 0")
        return None
    return np.array([int(text) for text in texts])


def _unlabelled(own: HeadInputs, task: _Task) -> str:
    return f"{own.rows.dataset} has no label {NUMBERS} that numbers the head's {task.head.outputs} outputs"


def _meaning(head: Head) -> list[str]:
    """What the outputs of a dense head are, averaged over patches."""
    if head.kind == "depth":
        return [
            "Caveat: outputs are the mean over patches of each depth bin before activation; DINOv2 normalises bins "
            "patch by patch, so they are no depth in metres"
        ]
    if head.kind == "segmentation":
        return ["Caveat: outputs are the mean over patches of each class's logit; no map, and no intersection of areas"]
    return []
