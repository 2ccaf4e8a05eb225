"""Whether cached spaces should be aligned to tell a label: information, alignment, a trial, an answer for each use."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.row import Row
from featcache.metrics.measure.settings import MeasureSettings
from featcache.metrics.measure.space import ArraySpace
from featcache.metrics.probes.calibrated import CrossFitted, class_entropy, cross_fit
from featcache.metrics.probes.information_bounds import information_rows
from featcache.studies.advise.answers import advice_rows
from featcache.studies.advise.labelled import Labelled, labelled_rows
from featcache.studies.advise.result import Advice, PairAdvice
from featcache.studies.advise.settings import DEFAULT_SETTINGS, AdviseSettings
from featcache.studies.advise.tables import write_advice
from featcache.studies.advise.trial import run_trial
from featcache.studies.distinct_names import distinct_names
from featcache.studies.downstream.groups import choose_label
from featcache.studies.downstream.sources import LabelRule, label_rule
from featcache.studies.tables import check_table_path

OnStep = Callable[[str], None]
METRICS = ("mutual_knn", "cka_debiased")
_NEIGHBOURS = 10


def advise(
    cache: Cache,
    dataset: str,
    arrays: Sequence[str],
    settings: AdviseSettings = DEFAULT_SETTINGS,
    *,
    out: Path | None = None,
    on_step: OnStep | None = None,
) -> Advice:
    """Answers for every two cached arrays, use by use, whether they should be aligned.

    Args:
        cache: The cache.
        dataset: Data set with labels.
        arrays: `[view/]encoder[/layer.pooling][@digest]`, two or more.
        settings: How.
        out: Where a tidy table is written, as Parquet; None for nowhere.
        on_step: Called with what is being done.

    Raises:
        UsageError: If fewer than two arrays are named or one twice, there is no such label, or one is of a view that is
            made from it; as `label_rule`.
        FeaturesNotCached, Ambiguous: As `Cache.load`.
        NotPaired: As `labelled_rows`.
        MetricError: As `cross_fit`.
        TrainingDiverged: As `run_trial`.
    """
    check_table_path(out)
    if len(arrays) < 2:
        raise UsageError(f"{len(arrays)} array is named; advice is on two or more\n  Name another array of {dataset}")
    named = _named([cache.load(dataset, name) for name in arrays])
    label = choose_label(list(named.values()), settings.label)
    notes = _label_notes(named, label_rule(cache, dataset, list(named.values()), label, settings.label_views))
    settings = replace(settings, label=label)
    rows = labelled_rows(named, label, groups=settings.groups, folds=settings.folds, seed=settings.seed)
    pairs = advise_rows(rows, settings, on_step=on_step)
    advice = Advice(
        dataset, label, class_entropy(rows.y), rows, named, pairs, settings, [*notes, *rows.notes], out
    )  # fmt: skip
    if out is not None:
        write_advice(advice, out)
    return advice


def advise_rows(rows: Labelled, settings: AdviseSettings, *, on_step: OnStep | None = None) -> list[PairAdvice]:
    """The same of labelled rows that are at hand; what a space knows by itself is found once for all its pairs.

    Args:
        rows: Two or more spaces, classes and folds.
        settings: How.
        on_step: Called with what is being done.
    """
    say = on_step or (lambda _: None)
    alone = dict[str, CrossFitted]()
    for name, values in rows.spaces.items():
        say(f"classifiers of {name}")
        alone[name] = cross_fit(values, rows.y, rows.folds)
    pairs: list[PairAdvice] = []
    for pair in combinations(rows.spaces, 2):
        first, second = (alone[name] for name in pair)
        say(f"classifiers of {pair[0]} and {pair[1]} together")
        side_by_side = np.concatenate([rows.spaces[name] for name in pair], axis=1)
        both = cross_fit(side_by_side, rows.y, rows.folds, parts=(first, second))
        information = information_rows(
            first, second, both, rows.y,
            groups=rows.units, level=settings.level, shortfall=settings.shortfall, seed=settings.seed,
        )  # fmt: skip
        say(f"the alignment of {pair[0]} and {pair[1]}")
        alignment = _alignment(rows, pair, settings)
        trial = run_trial(rows, pair, settings, on_step=on_step)
        answers = advice_rows(pair, trial, information, rows, settings)
        pairs.append(PairAdvice(*pair, information, (first.chosen, second.chosen, both.chosen), alignment, answers))
    return pairs


def _alignment(rows: Labelled, pair: tuple[str, str], settings: AdviseSettings) -> list[Row]:
    groups = None if len(np.unique(rows.units)) == rows.n else rows.units.tolist()
    spaces = [ArraySpace(rows.spaces[name], name, groups) for name in pair]
    how = MeasureSettings(
        METRICS, k=min(_NEIGHBOURS, rows.n // 4), permutations=settings.permutations, seed=settings.seed
    )
    return measure(spaces, None, how).rows


def _named(arrays: Sequence[Features]) -> dict[str, Features]:
    """Arrays by the shortest names that tell them apart: encoder, with its layer, with its view."""
    whole = [f"{each.view}/{each.name}" for each in arrays]
    if len({(each.digest, each.root) for each in arrays}) < len(arrays):
        raise UsageError(f"{', '.join(whole)}: name each array once")
    views = [f"{each.view}/{each.encoder}" for each in arrays]
    exact = [f"{name}@{each.digest[:8]}" for name, each in zip(whole, arrays, strict=True)]
    encoders, layers = [each.encoder for each in arrays], [each.name for each in arrays]
    return dict(zip(distinct_names(encoders, views, layers, whole, exact), arrays, strict=True))


def _label_notes(arrays: Mapping[str, Features], rule: LabelRule) -> list[str]:
    for name, features in arrays.items():
        if rule.forbids(features):
            raise UsageError(
                f"{name}: view {features.view} is made from the label {rule.label}: it would know it by itself\n"
                "  Name an array of another view, or another label with --labels"
            )
    hints = {name: rule.hint(features) for name, features in arrays.items()}
    return [f"Caveat: {name}: {hint}" for name, hint in hints.items() if hint]
