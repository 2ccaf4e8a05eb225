"""The final tables of a run: every space against the reference on the test split, and the contrasts between them."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.row import CLEAN, ContrastRow, Row
from featcache.metrics.measure.settings import MeasureSettings
from featcache.metrics.measure.space import ArraySpace
from featcache.studies.adapters.composed import composed_rows
from featcache.studies.adapters.controls import (
    dimension_rows,
    gap_rows,
    mean_rows,
    noise_rows,
    ridge_rows,
    whole_groups,
)
from featcache.studies.adapters.headline import headline_contrasts, joint_and_parts
from featcache.studies.adapters.self_kept import self_kept_results
from featcache.trainer.adapters import Adapters
from featcache.trainer.config import FitConfig
from featcache.trainer.fit import Fitted, untrained_adapters
from featcache.trainer.joints import JOINTS, concatenation, simplex
from featcache.trainer.sides import PairedSides
from featcache.trainer.subsets import training_groups, training_part
from featcache.trainer.tracking import (
    EvaluationSplit,
    alignment_rows,
    alignment_settings,
    embed_split,
    loss_row,
    retrieval_rows,
)

TRAINING_GROUPS = 2_000  # of which alignment is measured in training, at most


@dataclass(frozen=True)
class Results:
    """What is measured once, after the epoch has been selected.

    Args:
        rows: Scores of raw, mixed, untrained and trained spaces, with chance, null and interval on test, and once more
            on its clean part where some of its groups leak.
        contrasts: Paired differences between them on both, with their verdicts.
    """

    rows: list[Row]
    contrasts: list[ContrastRow]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Validation and test of paired sides; what does not depend on training is measured once for all trainings.

    Args:
        paired: The paired sides.
        config: Reads k, permutations and halves; trainings that share an evaluation must agree on these.
        leaking: Ids of the groups that stand in training too.
    """

    paired: PairedSides
    config: FitConfig
    leaking: frozenset[str] = frozenset()
    _ridge: dict[tuple[Any, ...], list[Row]] = field(default_factory=lambda: {}, repr=False)

    @cached_property
    def validation(self) -> EvaluationSplit:
        """The validation split."""
        return EvaluationSplit("validation", self.paired.part("validation"))

    @cached_property
    def test(self) -> EvaluationSplit:
        """The test split."""
        return EvaluationSplit("test", self.paired.part("test"))

    @cached_property
    def clean(self) -> EvaluationSplit | None:
        """The groups of the test split that do not leak; None where none leaks, or too few are left for k."""
        numbers = self.paired.splits["test"]
        left = ~np.isin(self.paired.groups[numbers.numpy()], [*self.leaking])
        if left.all() or left.sum() <= self.config.k:
            return None
        return EvaluationSplit(CLEAN, self.paired.subset(CLEAN, numbers[torch.from_numpy(left)]))

    @cached_property
    def permuted(self) -> EvaluationSplit:
        """The test split with every side but the first permuted across groups, each in its own way."""
        part = self.paired.part("test")
        first, *others = part.sides
        # the same for all trainings: no group keeps its own rows, and no two sides meet again
        cycle = torch.from_numpy(np.random.default_rng(0).permutation(len(part.groups)))
        place = torch.argsort(cycle)
        moved = {name: part.sides[name].take(cycle.roll(shift)[place]) for shift, name in enumerate(others, start=1)}
        return EvaluationSplit("test", replace(part, sides={first: part.sides[first], **moved}, _parts={}))

    @cached_property
    def _training(self) -> EvaluationSplit | None:
        return _whole_groups(self.paired.part("train"), self.config.k)

    def ridge(self, config: FitConfig) -> list[Row]:
        """Ridge regression of the training groups of a configuration to the reference: rows on validation and test."""
        drawn = config.apart or config.train_groups != "all"
        key = (config.group_rows, config.apart, *((config.train_groups, config.seed) if drawn else ()))
        if key not in self._ridge:
            train = training_part(self.paired, config)
            # no null: a map that was fitted to the reference is no unrelated space
            settings = replace(self.settings, null="none")
            self._ridge[key] = ridge_rows(train, self.validation, self.tests, alignment_settings(config), settings)
        return self._ridge[key]

    def training(self, config: FitConfig) -> EvaluationSplit | None:
        """Groups trained on that have all sides and the reference; None for too few, or without a reference.

        The same for all trainings on all groups; of the others those of their subset.
        """
        if config.train_groups == "all" and not config.apart:
            return self._training
        return _whole_groups(training_groups(self.paired, config), config.k)

    @property
    def tests(self) -> list[EvaluationSplit]:
        """The test split, and its clean part where there is one to be measured."""
        return [self.test] if self.clean is None else [self.test, self.clean]

    @property
    def splits(self) -> dict[str, EvaluationSplit]:
        """Both by name."""
        return {"validation": self.validation, "test": self.test}

    @cached_property
    def settings(self) -> MeasureSettings:
        """How spaces are measured on test: with null and interval."""
        draws: dict[str, Any] = {"null": "auto", "permutations": self.config.permutations}
        return replace(alignment_settings(self.config), **draws, interval="samples", repeats=self.config.halves)

    @cached_property
    def raw_rows(self) -> list[Row]:
        """Raw features against the reference and against each other, on validation and test."""
        rows = alignment_rows(self.validation, self.validation.raw, alignment_settings(self.config))
        for split in self.tests:
            rows += alignment_rows(split, split.raw, self.settings)
            spaces = [*split.raw.values(), *([split.reference] if split.reference else [])]
            rows += [replace(row, split=split.name) for row in dimension_rows(spaces)]
        return [replace(row, stage="raw") for row in rows]

    @cached_property
    def noise_rows(self) -> list[Row]:
        """Noise with the spectra of the raw features in their place, on test."""
        return noise_rows(self.tests, alignment_settings(self.config))

    @cached_property
    def mixtures(self) -> tuple[list[Row], dict[tuple[str, str], ArraySpace]]:
        """Mixed raw kernels, the training-free rival of the joint space: rows, and (test split, metric) -> the best.

        For each metric the weights are the best on validation (the first of equals); test sees these weights only.
        """
        if self.validation.reference is None:
            return [], {}
        settings, rows, best = alignment_settings(self.config), [], {}
        names = [*self.paired.sides]
        for weights in simplex(len(names)):
            space = mixture(self.validation.raw, weights, "mixed")
            rows += [
                replace(row, stage="mixed", split="validation", weights=weights_text(names, weights))
                for row in measure([space], self.validation.reference, settings).rows
            ]
        test_rows: list[Row] = []
        for metric in dict.fromkeys(row.metric for row in rows):
            tried = [row for row in rows if row.metric == metric and row.value is not None]
            chosen = max(tried, key=lambda row: row.value or 0.0)
            weights = [*json.loads(chosen.weights).values()]
            one = replace(self.settings, metrics=(metric,))
            for split in self.tests:
                best[split.name, metric] = mixture(split.raw, weights, "mixed")
                test_rows += [
                    replace(row, stage="mixed", split=split.name, weights=chosen.weights)
                    for row in measure([best[split.name, metric]], split.reference, one).rows
                ]
        return rows + test_rows, best


def _whole_groups(train: PairedSides, k: int) -> EvaluationSplit | None:
    """Training groups that have all sides and the reference, TRAINING_GROUPS of them at most; None for too few."""
    numbers = whole_groups(train, TRAINING_GROUPS)
    return EvaluationSplit("train", train.subset("train", numbers)) if len(numbers) > k else None


def final_results(fitted: Fitted, evaluation: Evaluation, *, control: Adapters | None = None) -> Results:
    """Everything that is measured once of a training: on the test split, its clean part, and on training groups.

    Args:
        fitted: The training.
        evaluation: Of the same paired sides.
        control: Adapters of a control (pairs shuffled), for the contrast trained minus control.
    """
    shared = [*evaluation.raw_rows, *evaluation.mixtures[0], *evaluation.ridge(fitted.config), *evaluation.noise_rows]
    results = Results(shared, [])
    untrained = [
        untrained_adapters(fitted.paired, fitted.config, seed, like=fitted.adapters) for seed in _seeds(fitted.config)
    ]
    for split in evaluation.tests:
        measured = _results_on(split, fitted, evaluation, untrained, control)
        results = Results(results.rows + measured.rows, results.contrasts + measured.contrasts)
    kept = _self_kept(fitted, evaluation)
    more = permuted_rows(fitted, evaluation) + training_rows(fitted, evaluation)
    if fitted.config.apart:
        part = training_part(fitted.paired, fitted.config)
        more += composed_rows(part, evaluation.validation, evaluation.tests, fitted.config)
    return Results(results.rows + more + kept.rows, results.contrasts + kept.contrasts)


def _self_kept(fitted: Fitted, evaluation: Evaluation) -> Results:
    """H1 and H2 with every group among its own neighbours, on test; nothing unless the settings ask for it."""
    test, config = evaluation.test, fitted.config
    if not config.keep_self or test.reference is None:
        return Results([], [])
    sides = [*evaluation.paired.sides]
    raw = {f"raw {name}": space for name, space in test.raw.items()}
    trained = {_label(name, sides): space for name, space in embed_split(test, fitted.adapters).spaces.items()}
    contrasts = joint_and_parts(sides)
    rows, differences = self_kept_results(raw | trained, test.reference, evaluation.settings, contrasts)
    named = [
        replace(row, space=row.space.removeprefix("raw "), stage="raw")
        if row.space in raw
        else replace(row, space=row.space.removeprefix("adapted "), stage="trained", epoch=fitted.selected_epoch)
        for row in rows
    ]
    return Results([replace(row, split="test") for row in named], [replace(row, split="test") for row in differences])


def permuted_rows(fitted: Fitted, evaluation: Evaluation) -> list[Row]:
    """Alignment and retrieval of trained spaces on the permuted test split; none unless the settings ask for them."""
    if not fitted.config.permute_evaluation:
        return []
    test = evaluation.permuted
    embedded = embed_split(test, fitted.adapters)
    rows = alignment_rows(test, embedded.spaces, evaluation.settings)
    rows += retrieval_rows(test, embedded, fitted.config.hits)
    return [replace(row, stage="permuted", epoch=fitted.selected_epoch) for row in rows]


def training_rows(fitted: Fitted, evaluation: Evaluation) -> list[Row]:
    """Alignment of the trained spaces with the reference on groups trained on: where training on it is a ceiling."""
    split = evaluation.training(fitted.config)
    if split is None:
        return []
    spaces = embed_split(split, fitted.adapters).spaces
    rows = measure(spaces, split.reference, alignment_settings(fitted.config)).rows
    return [replace(row, stage="trained", split="train", epoch=fitted.selected_epoch) for row in rows]


def _results_on(
    test: EvaluationSplit,
    fitted: Fitted,
    evaluation: Evaluation,
    untrained: Sequence[Adapters],
    control: Adapters | None,
) -> Results:
    """Trained and untrained spaces of one training on the test split or its clean part, and the headline contrasts."""
    config, embedded = fitted.config, embed_split(test, fitted.adapters)
    trained = alignment_rows(test, embedded.spaces, evaluation.settings)
    trained += retrieval_rows(test, embedded, config.hits)
    trained.append(loss_row(test, embedded, fitted.adapters, config))
    trained += [replace(row, split=test.name) for row in _unmatched_rows(embedded.spaces, test)]
    rows = [replace(row, stage="trained", epoch=fitted.selected_epoch) for row in trained]
    if JOINTS[config.joint].weights != "equal":
        text = weights_text([*evaluation.paired.sides], fitted.adapters.weights().tolist())
        rows = [replace(row, weights=text) if row.space == "joint" and row.against else row for row in rows]
    drawn = [embed_split(test, adapters) for adapters in untrained]
    rows += [replace(row, stage="untrained", epoch=0) for row in retrieval_rows(test, drawn[0], config.hits)]
    draws = [each.spaces for each in drawn]
    means, contrasts = _untrained_and_contrasts(test, embedded.spaces, draws, evaluation, control)
    # last, so that it finds the graphs that contrasts search deeper than it needs
    return Results([*rows, *means, *_untrained_without_reference(test, draws, config)], contrasts)


def _unmatched_rows(spaces: Mapping[str, ArraySpace], test: EvaluationSplit) -> list[Row]:
    """Gaps between the sides of adapted spaces, and the intrinsic dimension of each."""
    return [*gap_rows(spaces, [*test.paired.sides]), *dimension_rows(spaces.values())]


def _untrained_without_reference(
    test: EvaluationSplit, draws: Sequence[Mapping[str, ArraySpace]], config: FitConfig
) -> list[Row]:
    """What is measured of untrained spaces without a reference: sides against each other, gaps, intrinsic dimension."""
    sides, plain = [*test.paired.sides], alignment_settings(config)
    measured = [
        [*measure({name: spaces[name] for name in sides}, None, plain).rows, *_unmatched_rows(spaces, test)]
        for spaces in draws
    ]
    return [replace(row, stage="untrained", split=test.name, epoch=0) for row in mean_rows(measured)]


def mixture(spaces: Mapping[str, ArraySpace], weights: Sequence[float], name: str) -> ArraySpace:
    """The space whose cosine kernel is the weighted sum of the spaces' cosine kernels."""
    return ArraySpace(concatenation([torch.as_tensor(space.values) for space in spaces.values()], weights), name)


def weights_text(names: Sequence[str], weights: Sequence[float]) -> str:
    """Weights by side as JSON, as the tidy row keeps them."""
    return json.dumps(dict(zip(names, weights, strict=True)), ensure_ascii=False)


def _untrained_and_contrasts(
    test: EvaluationSplit,
    trained: Mapping[str, ArraySpace],
    draws: Sequence[Mapping[str, ArraySpace]],
    evaluation: Evaluation,
    control: Adapters | None,
) -> tuple[list[Row], list[ContrastRow]]:
    """Mean score of untrained adapters, and the headline contrasts; each score is computed once."""
    if test.reference is None:
        return [], []
    sides = [*evaluation.paired.sides]
    mixtures = {metric: space for (split, metric), space in evaluation.mixtures[1].items() if split == test.name}
    spaces = {f"raw {name}": space for name, space in test.raw.items()}
    spaces |= {_label(name, sides): space for name, space in trained.items()}
    for number, drawn in enumerate(draws):
        for name, space in drawn.items():
            spaces[f"untrained {number} {_label(name, sides)}"] = space
    spaces |= {f"mixed {metric}": space for metric, space in mixtures.items()}
    if control is not None:
        spaces["control joint"] = embed_split(test, control).spaces["joint"]
    contrasts = headline_contrasts(sides, len(draws), mixtures=[*mixtures], control=control is not None)
    plain = replace(evaluation.settings, null="none", interval="none")
    result = measure(spaces, test.reference, plain, contrasts=contrasts)
    means = _means(result.rows, [*trained], sides, len(draws))
    return (
        [replace(row, split=test.name) for row in means],
        [replace(row, split=test.name) for row in result.contrasts],
    )


def _label(name: str, sides: Sequence[str]) -> str:
    """How contrasts name a trained space: a side's own is "adapted", a joint one keeps its name."""
    return f"adapted {name}" if name in sides else name


def _means(rows: Sequence[Row], names: Sequence[str], sides: Sequence[str], draws: int) -> list[Row]:
    """One row a space: the mean over initialisations, and their range in the note."""
    means: list[Row] = []
    drawn = [row for row in rows if row.space.startswith("untrained ")]
    for name, metric in itertools.product(names, dict.fromkeys(row.metric for row in drawn)):
        label = _label(name, sides)
        own = [row for row in drawn if row.metric == metric and row.space.split(" ", 2)[2] == label]
        values = [row.value for row in own if row.value is not None]
        note = f"mean of {draws} initialisations, {min(values):.4f} to {max(values):.4f}"
        means.append(replace(own[0], space=name, value=float(np.mean(values)), stage="untrained", epoch=0, note=note))
    return means


def _seeds(config: FitConfig) -> list[int]:
    """Seeds of the initialisations that stand for untrained adapters; the first is that of the run itself."""
    own = np.random.SeedSequence(config.seed)
    more = own.spawn(config.untrained - 1)
    return [int(one.generate_state(1)[0]) for one in (own, *more)]
