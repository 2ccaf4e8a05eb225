"""How well the layers of a dial do by themselves: probe accuracy of a label, and bits per byte of language models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.cache import Cache
from featcache.data.mentions import LEAST, subject_labels
from featcache.data.perturbations import original_view
from featcache.data.splits import split_groups
from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics.measure.row import Row
from featcache.metrics.probes.accuracy_rows import Predictions, accuracy_rows
from featcache.metrics.probes.logistic import choose_logistic
from featcache.selectors import BITS_PER_BYTE, Selector
from featcache.studies.downstream.groups import TaskGroups, task_groups
from featcache.studies.downstream.sources import LabelRule
from featcache.studies.emergence.dials.doses import Dose, OnStep, depths_of, kept_groups
from featcache.studies.tables import table

if TYPE_CHECKING:
    import polars as pl

    from featcache.data.views import Dataset

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3)  # of which validation chooses
DRAWN_SPLIT = "60/10/30"  # of all labelled groups, where the data set's own test split has too few of them
LEAST_TEST = 200  # labelled groups of a test split
MOST_GROUPS = 2_000  # labelled groups that are probed: a drawn part of more


@dataclass(frozen=True, eq=False)
class Labels:
    """The label that layers are probed for.

    Args:
        name: Of the label.
        of: Group -> label; "" where it has none.
        splits: Group -> split in which probes are fitted, chosen and tested.
        forbidden: Views, by the names of their originals, that are made from the label or that it is made from.
        notes: What is to be said of it.
    """

    name: str
    of: Mapping[Any, str]
    splits: Mapping[Any, str]
    forbidden: frozenset[str]
    notes: tuple[str, ...] = ()

    def may_probe(self, features: Features) -> bool:
        """Whether a view may be probed for it."""
        view = original_view(features.view)
        rule = LabelRule(features.dataset, self.name)
        return view not in self.forbidden and not rule.forbids(replace(features, view=view))


@dataclass(frozen=True)
class PerformanceRow:
    """What one dose adds to a row of performance.

    Args:
        dial: As `DialRow`.
        dataset: Of the array.
        side: "x" or "y", of the pairs that were measured.
        dose: Share that is spoilt, 0 to 1.
        dose_words: The same in words.
        draw: Seed of what was spoilt.
        view: Of the array.
        encoder: Of the array.
        layer: Of the array.
        depth: As `DialRow`.
        digest: Of the array.
        root: Of the array.
    """

    dial: str
    dataset: str
    side: str
    dose: float
    dose_words: str
    draw: int
    view: str
    encoder: str
    layer: str
    depth: int
    digest: str
    root: str


def column_labels(arrays: Sequence[Features], column: str) -> Labels:
    """A label column of the data set.

    The splits are the data set's own where at least 200 test groups have the label, else 60/10/30 of all groups, drawn
    by a hash of the group.

    Raises:
        UsageError: If no array has the column; lists those that there are.
    """
    for each in arrays:
        if column in each.labels:
            of = dict(zip(each.groups.tolist(), each.labels[column].astype(str).tolist(), strict=True))
            return given_labels(each, column, of)
    there = sorted({name for each in arrays for name in each.labels})
    raise UsageError(f"no label {column!r} in {arrays[0].dataset}; it has {', '.join(there) or 'none'}")


def given_labels(
    features: Features, name: str, of: Mapping[Any, str], *, forbidden: Sequence[str] = (), note: str = ""
) -> Labels:
    """Labels from elsewhere, for groups of a data set; splits as `column_labels`. Of many groups some are drawn.

    Args:
        features: An array of the data set, for its splits.
        name: Of the label.
        of: Group -> label.
        forbidden: Views that the label is made from.
        note: How it was got, in words.
    """
    own = dict(zip(features.groups.tolist(), features.splits.astype(str).tolist(), strict=True))
    labelled = [group for group in own if of.get(group)]
    notes = [note] if note else []
    if len(labelled) > MOST_GROUPS:
        notes.append(f"{MOST_GROUPS:,} of {len(labelled):,} labelled groups are probed, drawn with seed 0")
        chosen = np.random.default_rng(0).choice(len(labelled), MOST_GROUPS, replace=False)
        labelled = [labelled[place] for place in sorted(chosen.tolist())]
        of = {group: of[group] for group in labelled}
    test = sum(own[group] == "test" for group in labelled)
    if test < LEAST_TEST:
        names = [str(group) for group in own]
        drawn = dict(zip(own, split_groups(names, DRAWN_SPLIT, 0), strict=True))
        notes.append(
            f"{test} labelled groups in the test split, fewer than {LEAST_TEST}: probes are fitted, chosen and tested "
            f"on {DRAWN_SPLIT} of all groups, by a hash of the group"
        )
        own = drawn
    return Labels(name, of, own, frozenset(forbidden), tuple(notes))


def caption_subjects(cache: Cache, dataset: "Dataset", view: str) -> Labels:
    """Subjects of photos as most of their captions name them, for a data set that has no labels.

    Args:
        cache: The cache, with an array of a view of photos of that data set, for groups and splits.
        dataset: The data set, opened: captions are read, not encoded.
        view: A text view of it with three captions a group, or more.

    Raises:
        DataInvalid: As `subject_labels`.
        FeaturesNotCached: If no array of the data set is cached.
    """
    of = subject_labels(dataset.views[view])
    array = next((each for each in cache.arrays(dataset.name) if each.is_complete and each.name.view != view), None)
    if array is None:
        raise cache.not_cached(dataset.name, Selector("ENCODER"))
    texts = [each.name for each in dataset.views.values() if each.modality == "text"]
    note = f"label subject: what {LEAST} or more of a photo's {view} name, and no more than one names another"
    return given_labels(cache.describe(array), "subject", of, forbidden=texts, note=note)


def probe_doses(
    dial: str, doses: Iterable[Dose], labels: Labels, *, seed: int = 0, on_step: OnStep | None = None
) -> tuple["pl.DataFrame", list[str]]:
    """Accuracy of a linear probe of every layer of both sides at every dose.

    Layers that a dose shares with the one before are not probed again: their row stands at both. Training rows are as
    spoilt as test rows.

    Args:
        dial: Name of the dial.
        doses: Of the dial, on all groups that may be probed.
        labels: What is probed.
        seed: Of a validation split where there is none.
        on_step: Called with each dose in words.

    Returns:
        (one row a layer, side and dose: the columns of `Row` and `PerformanceRow`; what was left out).

    Raises:
        NotPaired, MetricError: As `task_groups` and `choose_logistic`.
    """
    rows: list[Row] = []
    context: list[dict[str, Any]] = []
    known: dict[int, tuple[Features, Row]] = {}  # of the dose before; arrays are kept, so that their ids stay theirs
    left: dict[str, None] = {}
    for dose in doses:
        current: dict[int, tuple[Features, Row]] = {}
        for side, arrays in (("x", dose.x), ("y", dose.y)):
            depths = depths_of(arrays)
            allowed = [each for each in arrays if labels.may_probe(each)]
            left |= {_left_out(each, labels): None for each in arrays if not labels.may_probe(each)}
            new = [each for each in allowed if id(each.values) not in known]
            if new and on_step is not None:
                on_step(f"{dial}: probes of {len(new)} layers of {new[0].view}, {dose.words}")
            made = {id(each.values): (each, row) for each, row in zip(new, _probed(new, labels, seed), strict=True)}
            for each in allowed:
                current[id(each.values)] = (known | made)[id(each.values)]
                rows.append(current[id(each.values)][1])
                own = PerformanceRow(
                    dial, each.dataset, side, dose.share, dose.words, dose.draw, each.view, each.encoder, each.layer,
                    depths[each.encoder, each.layer], each.digest, each.root,
                )  # fmt: skip
                context.append(vars(own))
        known = current
    return table(rows, context), [*labels.notes, *left]


def _left_out(features: Features, labels: Labels) -> str:
    return f"{features.view} is not probed: it gives the label {labels.name} away, or the label is made from it"


def _probed(arrays: Sequence[Features], labels: Labels, seed: int) -> list[Row]:
    """A row of plain accuracy for each array, on the same groups."""
    if not arrays:
        return []
    named = [_labelled(each, labels) for each in arrays]
    groups = task_groups(named, labels.name, seed=seed)
    predictions = [_predicted(each, groups, labels.name) for each in named]
    true = groups.codes[groups.rows["test"]]
    return accuracy_rows(predictions, true, balanced=(False,))


def _labelled(features: Features, labels: Labels) -> Features:
    """The rows that have a label, with it and its split."""
    own = kept_groups(features, {group for group, label in labels.of.items() if label})
    column = np.array([labels.of[group] for group in own.groups.tolist()], object)
    splits = np.array([labels.splits.get(group, "") for group in own.groups.tolist()], object)
    return replace(own, labels={labels.name: column}, splits=splits)


def _predicted(features: Features, groups: TaskGroups, label: str) -> Predictions:
    values = groups.means(features)
    parts = {split: (values[rows], groups.codes[rows]) for split, rows in groups.rows.items()}
    fitted = choose_logistic(*parts["train"], parts["validation"], penalties=PENALTIES)
    space = f"{features.view}/{features.encoder}/{features.layer}"
    row = Row(space, f"label {label}", "probe", None, d=features.width, stage="raw", split="test")
    convention = f"logistic, L2 {fitted.penalty:g} chosen on validation, columns standardised"
    edge = fitted.penalty in (min(PENALTIES), max(PENALTIES))
    remarks = (
        "the penalty lies at the end of those tried" * edge,
        "" if fitted.converged else "the fit had not converged",
    )
    note = "; ".join(filter(None, remarks))
    return Predictions(replace(row, convention=convention, note=note), fitted.classes(parts["test"][0]))


def bits_per_byte(
    cache: Cache, dataset: str, views: Mapping[str, tuple[float, str, int]], groups: set[Any]
) -> "pl.DataFrame":
    """Mean bits per byte of each causal language model that is cached, by dose.

    Args:
        cache: The cache.
        dataset: Data set name.
        views: Text view -> (dose, in words, draw).
        groups: Those that were measured.

    Returns:
        One row a language model and view: encoder, view, dose, dose_words, draw, bits_per_byte, n, digest, root.
    """
    import polars as pl

    rows: list[dict[str, Any]] = []
    for view, (dose, words, draw) in views.items():
        scored = [array for array in cache.arrays(dataset, view, "*", BITS_PER_BYTE) if array.is_complete]
        for encoder in sorted({array.name.encoder for array in scored}):
            features = kept_groups(cache.load(dataset, f"{view}/{encoder}/{BITS_PER_BYTE}", dtype="float32"), groups)
            rows.append(
                {"encoder": encoder, "view": view, "dose": dose, "dose_words": words, "draw": draw,
                 "bits_per_byte": float(np.mean(features.values, dtype=np.float64)), "n": len(features),
                 "digest": features.digest, "root": features.root}
            )  # fmt: skip
    kinds = {"dose": pl.Float64, "draw": pl.Int64, "bits_per_byte": pl.Float64, "n": pl.Int64}
    names = ("encoder", "view", "dose", "dose_words", "draw", "bits_per_byte", "n", "digest", "root")
    return pl.DataFrame(rows, schema={name: kinds.get(name, pl.String) for name in names})
