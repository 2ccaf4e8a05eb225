"""One answer for each use, from the effects of aligning and the information that both spaces have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from featcache.metrics.measure.contrasts import holm
from featcache.metrics.probes.effects import Effect, paired_effect
from featcache.metrics.probes.information_bounds import InformationRow
from featcache.studies.advise.labelled import Labelled
from featcache.studies.advise.settings import ALIGN, APART, NOTHING, OPEN, PRIVATE, AdviseSettings, Answer, Use
from featcache.studies.advise.trial import Hits


@dataclass(frozen=True)
class AdviceRow:
    """The answer for one use of two spaces, and what is behind it.

    Args:
        first: Name of the first space.
        second: Name of the second.
        use: "joint", "alone", "few" or "transfer".
        reads: "both", "first" or "second"; of transfers "first→second" or "second→first".
        labels: Labelled groups a class; 0: all training groups.
        answer: "align", "keep apart", "align with a private part" or "cannot tell".
        why: In a few words.
        accuracy: Held-out accuracy of the spaces kept apart; of a transfer, of the most frequent class.
        effect: Accuracy of the adapted spaces alone, less that.
        ci_low: Lower end of the interval of the effect, not adjusted for other uses.
        ci_high: Upper end.
        p: Two-sided, of no effect.
        p_holm: p after Holm's correction over all uses of this kind and both effects.
        private_effect: Accuracy of adapted spaces with the raw ones beside them, less that; None of a transfer.
        private_low: Lower end of its interval.
        private_high: Upper end.
        private_p_holm: As `p_holm`.
        margin_high: Upper end of the intervals of both effects, one-sided at the level: what gain is ruled out.
        n: Groups.
        classes: Of the label.
        level: Of intervals.
    """

    first: str
    second: str
    use: str
    reads: str
    labels: int
    answer: str
    why: str
    accuracy: float
    effect: float
    ci_low: float
    ci_high: float
    p: float
    p_holm: float
    private_effect: float | None
    private_low: float | None
    private_high: float | None
    private_p_holm: float | None
    margin_high: float
    n: int
    classes: int
    level: float


@dataclass(frozen=True)
class UseEffects:
    """The effects of one use.

    Args:
        accuracy: Of the spaces kept apart.
        aligned: Adapted spaces alone, less that.
        private: With the spaces as they are beside them, less that; None where there is no such thing.
        extra: With them, less without.
    """

    accuracy: float
    aligned: Effect
    private: Effect | None
    extra: Effect | None


def use_effects(hits: Hits, rows: Labelled) -> UseEffects:
    """Paired differences of accuracy of one use, over groups and trainings."""
    aligned = paired_effect(hits.aligned - hits.apart, rows.folds, groups=rows.units)
    private = extra = None
    if hits.private is not None:
        private = paired_effect(hits.private - hits.apart, rows.folds, groups=rows.units)
        extra = paired_effect(hits.private - hits.aligned, rows.folds, groups=rows.units)
    return UseEffects(float(hits.apart.mean()), aligned, private, extra)


def advice_rows(
    pair: tuple[str, str],
    trial: Mapping[Use, Hits],
    information: Sequence[InformationRow],
    rows: Labelled,
    settings: AdviseSettings,
) -> list[AdviceRow]:
    """One answer for each use of a trial.

    Args:
        pair: Names of the two spaces.
        trial: Hits of each use.
        information: Of the same two spaces.
        rows: Folds and units.
        settings: Level and margins.
    """
    effects = {use: use_effects(hits, rows) for use, hits in trial.items()}
    corrected = dict[int, float]()  # by the effect, which is of one use
    for kind in dict.fromkeys(use.kind for use in effects):
        own = [each for use, each in effects.items() if use.kind == kind]
        tested = [one for each in own for one in (each.aligned, each.private) if one is not None]
        corrected |= zip(map(id, tested), holm([one.p for one in tested]), strict=True)
    redundancy = next(row for row in information if row.quantity == "redundancy")
    made: list[AdviceRow] = []
    for use, each in effects.items():
        p = corrected[id(each.aligned)]
        private_p = None if each.private is None else corrected[id(each.private)]
        answer, why = decide(use, each, redundancy, settings, p_holm=p, private_p_holm=private_p)
        low, high = each.aligned.interval(settings.level)
        ends = (None, None) if each.private is None else each.private.interval(settings.level)
        made.append(
            AdviceRow(
                *pair, use.kind, use.reads, use.labels, answer, why, each.accuracy, each.aligned.value, low, high,
                each.aligned.p, p, each.private and each.private.value, *ends, private_p,
                ruled_out(each, settings.level), rows.n, len(rows.classes), settings.level,
            )
        )  # fmt: skip
    return made


def ruled_out(effects: UseEffects, level: float) -> float:
    """The gain that aligning does not reach, with or without a private part: the greater of one-sided upper ends."""
    every = [effects.aligned] if effects.private is None else [effects.aligned, effects.private]
    return max(one.interval(2 * level - 1)[1] for one in every)


def decide(
    use: Use,
    effects: UseEffects,
    redundancy: InformationRow,
    settings: AdviseSettings,
    *,
    p_holm: float,
    private_p_holm: float | None,
) -> tuple[Answer, str]:
    """The answer for one use, and why.

    A gain counts if it is `least_gain` or more and differs from 0 after Holm's correction. Adapted spaces alone gain:
    align; unless the raw ones beside them gain once more. Only both side by side gain: align with a private part.
    Neither does, and a gain of `margin` is ruled out: keep apart. Else nobody can tell. A transfer gains for sure only
    if both spaces know something of the label in common: of unrelated spaces a classifier of one may still be right
    about the other more often than chance, by accident, and as often less.

    Args:
        use: Which.
        effects: Of aligning.
        redundancy: What both spaces know of the label.
        settings: Level and margins.
        p_holm: Of the effect of the adapted spaces alone, corrected.
        private_p_holm: Of that with the spaces beside them.

    Returns:
        One of ANSWERS, and a few words.
    """
    alpha = 1 - settings.level
    gains = _gains(effects.aligned, p_holm, alpha, settings)
    private = effects.private is not None and private_p_holm is not None
    private_gains = private and _gains(effects.private, private_p_holm, alpha, settings)
    if use.kind == "transfer" and redundancy.ci_high <= NOTHING + settings.shortfall:
        return APART, "what both know of the label is next to nothing"
    if use.kind == "transfer" and gains and redundancy.ci_low <= 0:
        return OPEN, "a gain, but not for sure of what both know of the label"
    if gains or private_gains:
        extra = effects.extra
        if private_gains and (not gains or (extra is not None and _gains(extra, extra.p, alpha, settings))):
            return PRIVATE, f"adapted spaces gain {'most' if gains else 'surely only'} with the raw ones beside them"
        return ALIGN, "adapted spaces alone gain"
    if ruled_out(effects, settings.level) < settings.margin:
        harm = effects.aligned.value <= -settings.least_gain and p_holm <= alpha
        return APART, "adapted spaces alone lose" if harm else f"a gain of {settings.margin:g} is ruled out"
    return OPEN, "neither a gain nor its absence is sure: more groups, or --adapters"


def _gains(effect: Effect | None, p: float | None, alpha: float, settings: AdviseSettings) -> bool:
    return effect is not None and p is not None and effect.value >= settings.least_gain and p <= alpha
