"""Two trained runs against each other on the same test groups: paired differences of A and B, with their verdicts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import torch

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics.measure.contrasts import Contrast, with_verdicts
from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.recalls import recall_contrasts
from featcache.metrics.measure.row import CLEAN, ContrastRow, Row
from featcache.metrics.measure.space import ArraySpace
from featcache.studies.adapters.results import Evaluation
from featcache.studies.adapters.train import Workbench
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import NotPaired
from featcache.trainer.run import Run
from featcache.trainer.sides import PairedSides
from featcache.trainer.splits import same_splits
from featcache.trainer.tracking import RECALLS, Embedded, EvaluationSplit, embed_split, joint_names, retrieved

FAMILY = "A − B"


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same test groups against the same reference.

    Args:
        a: Name of the first run.
        b: Name of the second.
        dataset: Data set name.
        reference: Encoder and layer of the reference.
        groups: Test groups.
        rows: Scores of the spaces of both against the reference, `space` opening with "A " or "B "; and recalls of
            both, of `space` "A" or "B", by direction.
        contrasts: A − B, space by space and metric by metric, corrected together; then of retrieval. On the test split,
            and on its clean part where groups of it leak.
        notes: What is to be known of the comparison.
    """

    a: str
    b: str
    dataset: str
    reference: str
    groups: int
    rows: list[Row]
    contrasts: list[ContrastRow]
    notes: list[str]


@dataclass(frozen=True, eq=False)
class _Measured:
    """One run on its features, ready to be embedded."""

    run: Run
    config: FitConfig
    evaluation: Evaluation


def compare_runs(cache: Cache, a: Run, b: Run) -> Comparison:
    """Whether one trained run is closer to the reference than another, and retrieves better.

    Both embed the same test groups, and their scores are differenced on the same random halves, so that what the
    groups do to both cancels: the contrasts of a run with its control are measured in this way, by the same engine. The
    verdicts are about new samples and these two trained adapters, not about other seeds of their recipes: two seeds of
    one recipe may well differ. Retrieval is compared from those sides to those that both have, over queries, whole
    groups drawn, the gallery as it is.

    Args:
        cache: Has the features of both runs.
        a: A run with a reference.
        b: Another.

    Raises:
        UsageError: If both are one run; or data set, overlay, test groups, reference or k differ; says which, and what
            to run.
        FeaturesNotCached: If features of either are not in the cache.
        RunDamaged: If adapters cannot be read.
    """
    _check_alike(a, b)
    benches: dict[str, Workbench] = {}
    first, second = (_measured(cache, run, benches) for run in (a, b))
    notes = _notes(first, second)
    rows: list[Row] = []
    contrasts: list[ContrastRow] = []
    for name, ours, theirs in _splits(first, second):
        measured = _on_split(name, first, second, ours, theirs)
        rows += measured[0]
        contrasts += measured[1]
    reference = a.config["reference"]
    names = _names(a, b)
    where = f"{reference['encoder']}/{reference['layer']}"
    return Comparison(
        *names, a.config["dataset"], where, len(first.evaluation.test.paired.groups), rows, contrasts, notes
    )


def _names(a: Run, b: Run) -> tuple[str, str]:
    """Names of the folders, with those above them where they are alike."""
    names = a.path.name, b.path.name
    return names if names[0] != names[1] else (str(a.path), str(b.path))


def _check_alike(a: Run, b: Run) -> None:
    if a.path.resolve() == b.path.resolve():
        raise UsageError(f"{a.path} is named twice\n  Name two runs to be compared")
    for run in (a, b):
        if run.config["reference"] is None:
            raise UsageError(
                f"{run.path} has no reference, so neither run is closer to one\n  Train it with --reference ENCODER"
            )
    refs = [{name: run.config["reference"][name] for name in ("digest", "root")} for run in (a, b)]
    settings = [run.config["config"] for run in (a, b)]
    differ = {
        "data set": [run.config["dataset"] for run in (a, b)],
        "overlay (splits and labels)": [run.config["overlay"][:16] for run in (a, b)],
        "reference": [f"{run.config['reference']['encoder']}@{ref['digest'][:12]}:{ref['root'][:12]}"
                      for run, ref in zip((a, b), refs, strict=True)],
        "test groups": [str(run.config["split"].get("hashes", {}).get("test"))[:16] for run in (a, b)],
        "k": [str(one["k"]) for one in settings],
    }  # fmt: skip
    for what, (mine, other) in differ.items():
        if mine != other:
            raise UsageError(
                f"{a.path} and {b.path} do not share the {what}: {mine} and {other}, so their scores do not compare\n"
                f"  {_REMEDY[what].format(a=a.path, b=b.path)}"
            )


_REMEDY = {
    "data set": "Name two runs on one data set",
    "overlay (splits and labels)": "Train {b} again: featcache train, with --overwrite",
    "reference": "Train one of them with the reference of the other: featcache train --reference",
    "test groups": "Train both with the same split, and both with or without --on-leak drop",
    "k": "Train one of them with the --k of the other",
}


def _measured(cache: Cache, run: Run, benches: dict[str, Workbench]) -> _Measured:
    """A run's features and test groups, which must be those that it was trained with; equal features are read once."""
    arrays = {**run.config["sides"], "": run.config["reference"]}
    key = repr([(name, one["digest"], one["root"]) for name, one in arrays.items()])
    if key not in benches:
        loaded = {name: _features(cache, run, name, one) for name, one in arrays.items()}
        reference = loaded.pop("")
        benches[key] = Workbench(loaded, reference)
    config = FitConfig.model_validate(run.config["config"])
    on_leak = "drop" if run.config.get("leaks") == "dropped" else "warn"
    paired = benches[key].paired(config, on_leak)
    if not same_splits(paired.split, run.config["split"]):
        raise NotPaired(
            f"the splits of {run.config['dataset']} are no longer those that {run.path} was trained with\n"
            "  Train it again: featcache train, with --overwrite"
        )
    return _Measured(run, config, benches[key].evaluation(config, on_leak))


def _features(cache: Cache, run: Run, name: str, used: Mapping[str, str]) -> Features:
    features = cache.load(
        run.config["dataset"], f"{used['encoder']}/{used['layer']}@{used['digest']}", view=used["view"]
    )
    if features.root != used["root"]:
        raise UsageError(
            f"{name or 'reference'} of {run.path}: the cache holds other bytes of {features.name} than the run was "
            f"trained on (root {features.root[:12]}, not {used['root'][:12]})\n"
            "  Train it again: featcache train, with --overwrite"
        )
    return features


def _notes(a: _Measured, b: _Measured) -> list[str]:
    notes = [f"{name} is a control: its training pairs were shuffled" for name, one in (("A", a), ("B", b))
             if one.config.shuffle_pairs]  # fmt: skip
    mine, other = ({name: value for name, value in one.config.model_dump().items() if name != "seed"} for one in (a, b))
    same_features = a.run.config["sides"] == b.run.config["sides"]
    if same_features and mine == other:
        notes.append("A and B differ in their seed only: the difference is of these two trainings, not of recipes")
    if not same_features:
        notes.append("A and B read other features: a difference may be of the encoders, not of the training")
    if a.config.hits != b.config.hits:
        notes.append("the runs count other right answers (--hits): no retrieval is compared")
    return notes


def _splits(a: _Measured, b: _Measured) -> Iterable[tuple[str, EvaluationSplit, EvaluationSplit]]:
    """The test split of both, groups in A's order; then its part that leaks for neither, where some of it leaks."""
    mine = a.evaluation.test
    yield "test", mine, _in_order(b.evaluation.test, mine.paired.groups.tolist())
    clean = [one.evaluation.clean for one in (a, b)]
    if any(clean):
        kept = [set((part or one.evaluation.test).paired.groups.tolist())
                for part, one in zip(clean, (a, b), strict=True)]  # fmt: skip
        both = [group for group in mine.paired.groups.tolist() if group in kept[0] & kept[1]]
        if len(both) > a.config.k:
            yield CLEAN, _in_order(mine, both), _in_order(b.evaluation.test, both)


def _in_order(split: EvaluationSplit, groups: Sequence[str]) -> EvaluationSplit:
    """Some groups of a split in the order given."""
    own = split.paired.groups.tolist()
    if own == list(groups):
        return split
    place = {group: number for number, group in enumerate(own)}
    numbers = torch.tensor([place[group] for group in groups])
    return EvaluationSplit(split.name, split.paired.subset(split.name, numbers))


def _on_split(
    name: str, a: _Measured, b: _Measured, ours: EvaluationSplit, theirs: EvaluationSplit
) -> tuple[list[Row], list[ContrastRow]]:
    """Scores of the spaces that both have, and their differences."""
    embedded = embed_split(ours, a.run.adapters()), embed_split(theirs, b.run.adapters())
    spaces: dict[str, ArraySpace] = {}
    contrasts: list[Contrast] = []
    for label, mine, other in _pairs_of_spaces(ours, theirs, embedded):
        pair = f"A {label}", f"B {label}"
        spaces |= {pair[0]: ArraySpace(mine.values, pair[0]), pair[1]: ArraySpace(other.values, pair[1])}
        contrasts.append(Contrast(pair[0], (pair[1],), name=f"{label}: {FAMILY}", family=FAMILY))
    settings = replace(a.evaluation.settings, null="none", interval="none")
    result = measure(spaces, ours.reference, settings, contrasts=contrasts)
    recalls, differences = [], list[ContrastRow]()
    if a.config.hits == b.config.hits:
        recalls, differences = _recalls(a, b, (ours, theirs), embedded)
    rows = [replace(row, stage="raw" if " raw " in row.space[:6] else "trained", split=name, seconds=0.0)
            for row in (*result.rows, *recalls)]  # fmt: skip
    return rows, [replace(row, split=name) for row in (*result.contrasts, *differences)]


def _pairs_of_spaces(
    ours: EvaluationSplit, theirs: EvaluationSplit, embedded: tuple[Embedded, Embedded]
) -> Iterable[tuple[str, ArraySpace, ArraySpace]]:
    """Spaces that both have: joint, joints of pairs, adapted sides; then raw sides whose features differ."""
    shared = [side for side in ours.paired.sides if side in theirs.paired.sides]
    mine, other = (each.spaces for each in embedded)
    for joint in joint_names([*ours.paired.sides]):
        if joint in other:
            yield joint, mine[joint], other[joint]
    for side in shared:
        yield f"adapted {side}", mine[side], other[side]
    for side in shared:
        raw = ours.raw[side], theirs.raw[side]
        if raw[0].values.shape != raw[1].values.shape or not np.array_equal(raw[0].values, raw[1].values):
            yield f"raw {side}", *raw


def _recalls(
    a: _Measured,
    b: _Measured,
    splits: tuple[EvaluationSplit, EvaluationSplit],
    embedded: tuple[Embedded, Embedded],
) -> tuple[list[Row], list[ContrastRow]]:
    """Recalls of both and their differences, from each side to each other of which both runs have the same rows.

    Recall is a mean over queries, so that on random halves of the groups of queries its differences spread as those of
    new queries do.
    """
    alike = _same_rows(a, b, splits[0].paired, splits[1].paired)
    rows: list[Row] = []
    contrasts: list[ContrastRow] = []
    alpha = a.evaluation.settings.alpha
    for query, gallery in permutations(alike, 2):
        ranks = {
            name: retrieved(split, each, query, gallery, a.config.hits).ranks
            for name, split, each in zip("AB", splits, embedded, strict=True)
        }
        scores, differences = recall_contrasts(
            ranks,
            splits[0].paired.sides[query].groups.numpy(),
            ks=RECALLS,
            repeats=a.config.halves,
            alpha=alpha,
            direction=f"{query}→{gallery}",
            family=FAMILY,
        )
        rows += scores
        contrasts += differences
    return rows, with_verdicts(contrasts, alpha=alpha)


def _same_rows(a: _Measured, b: _Measured, mine: PairedSides, other: PairedSides) -> list[str]:
    """Sides of one view in both runs, with as many rows of each group."""
    sides = [side for side in mine.sides if side in other.sides]
    views = [{side: run.config["sides"][side]["view"] for side in sides} for run in (a.run, b.run)]
    return [
        side
        for side in sides
        if views[0][side] == views[1][side] and torch.equal(mine.sides[side].groups, other.sides[side].groups)
    ]
