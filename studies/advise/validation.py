"""Advice on features of encoders trained apart, against what training them together really does to exact accuracy."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featcache.data.synthetic.generator import Generator, all_bits, draw
from featcache.data.synthetic.tables import joint_table
from featcache.metrics.information.decompositions import broja
from featcache.metrics.information.tables import mutual_information
from featcache.metrics.probes.calibrated import cross_fit, group_folds
from featcache.metrics.probes.information_bounds import INFORMATIONS, SHORTFALL, information_rows
from featcache.studies.advise.advise import advise_rows
from featcache.studies.advise.answers import AdviceRow
from featcache.studies.advise.labelled import Labelled
from featcache.studies.advise.settings import (
    ALIGN,
    APART,
    BACK,
    FIRST,
    FORTH,
    OPEN,
    PAIR,
    PRIVATE,
    SECOND,
    AdviseSettings,
)
from featcache.studies.emergence.synthetic.generators import RELEASED, open_generator
from featcache.studies.emergence.together.training import PairSettings, train_pairs
from featcache.studies.emergence.together.uses import TrainedPairs, use_accuracies
from featcache.studies.experiments.seeds import student
from featcache.studies.tables import write_table

if TYPE_CHECKING:
    import polars as pl

OnStep = Callable[[str], None]
LEAST_EFFECT = 0.05  # of exact accuracy, above which the sign of an answer is judged
SEEDS = (0, 1, 2, 3, 4)
_GAP = 1e-5  # nats: of the exact decomposition
_GAP = 1e-5  # nats: of the exact decomposition
_SIDES = {PAIR: "both", FIRST: "0", SECOND: "1", FORTH: "0→1", BACK: "1→0"}  # as `use_accuracies` names them
Key = tuple[str, str, int]  # use, side, labels


@dataclass(frozen=True)
class Cell:
    """One data set of the validation.

    Args:
        generator: A name that `open_generator` knows.
        level: Of its label table.
        phi_depth: Of the map of the second modality.
    """

    generator: str
    level: int
    phi_depth: int


# Margins were chosen while looking at these alone
FROZEN_ON = tuple(Cell(RELEASED, level, depth) for level in (0, 2, 4, 6, 8) for depth in (1, 7))
JUDGED_ON = (
    Cell("unique_for_redundancy", 0, 7),
    Cell("unique_for_redundancy", 4, 1),
    Cell("unique_for_redundancy", 8, 7),
    Cell("unique_for_synergy", 0, 1),
    Cell("unique_for_synergy", 8, 1),
    Cell("synergy_for_redundancy", 4, 7),
    Cell("synergy_for_redundancy", 8, 1),
    Cell("second_for_first", 0, 1),
    Cell("second_for_first", 8, 7),
    Cell("redundancy", 0, 1),
    Cell("unique", 8, 7),
    Cell("synergy", 8, 7),
)


@dataclass(frozen=True)
class ValidationSettings:
    """How much is computed.

    Args:
        seeds: Of encoders trained together; the exact effect is the mean over them.
        steps: Of their training.
        private: Features of each encoder that stay private in the third training of each seed.
        advised: Of these seeds, whose encoders at weight 0 are advised on.
        rows: Test rows of their features.
        draws: Of few labels, for the exact accuracies.
        advice: Settings of the advice.
    """

    seeds: tuple[int, ...] = SEEDS
    steps: int = 1_500
    private: int = 8
    advised: tuple[int, ...] = (0,)
    rows: int = 3_000
    draws: int = 10
    advice: AdviseSettings = AdviseSettings(folds=3, seeds=3, draws=4, width=64, permutations=39)


@dataclass(frozen=True)
class ValidationRow:
    """An answer beside the effect that it is about.

    Args:
        generator: Of the data set.
        level: Of its label table.
        phi_depth: Of the map of the second modality.
        encoders: Seed of the encoders whose features the answer is on.
        use: As of `AdviceRow`.
        reads: As of `AdviceRow`.
        labels: As of `AdviceRow`.
        exact: Exact accuracy at lambda = 1 less that at lambda = 0, mean over paired seeds.
        low: Lower end of its interval over seeds.
        high: Upper end.
        exact_private: The same where some features are private.
        answer: One of ANSWERS.
        measured: Effect of adapted spaces alone, as the advice has it.
        measured_low: Lower end of its interval.
        measured_high: Upper end.
        measured_private: Effect with the raw spaces beside them.
        outcome: "right", "wrong" or "open" where the exact effect is LEAST_EFFECT or more, else "small".
        certain: Whether the interval of the exact effect leaves 0 out.
    """

    generator: str
    level: int
    phi_depth: int
    encoders: int
    use: str
    reads: str
    labels: int
    exact: float
    low: float
    high: float
    exact_private: float
    answer: str
    measured: float
    measured_low: float
    measured_high: float
    measured_private: float | None
    outcome: str
    certain: bool


def run_validation(
    cells: Iterable[Cell] = (*FROZEN_ON, *JUDGED_ON),
    settings: ValidationSettings = ValidationSettings(),
    *,
    folder: Path | None = None,
    on_step: OnStep | None = None,
) -> "pl.DataFrame":
    """Advises on each data set and judges every answer by the exact effect of training together.

    The target was fixed before: exact accuracy at lambda = 1 less that at lambda = 0 for the same use, mean over five
    or more paired seeds. Features are those of the encoders at lambda = 0, of the test rows.

    Args:
        cells: Data sets.
        settings: How much is computed.
        folder: Gets one table a data set, which is not computed again, and validation.parquet with all; None for none.
        on_step: Called with what is being done.

    Returns:
        One row an answer, as `ValidationRow`.

    Raises:
        UsageError: If there is no such generator.
        DataInvalid: If it has no such level or map.
        TrainingDiverged: As `train_pairs`.
    """
    import polars as pl

    frames: list[pl.DataFrame] = []
    for cell in cells:
        place = None if folder is None else folder / f"{cell.generator}-{cell.level}-{cell.phi_depth}.parquet"
        if place is not None and place.is_file():
            frames.append(pl.read_parquet(place))
            continue
        if on_step is not None:
            on_step(f"{cell.generator} {cell.level}, map of {cell.phi_depth} layers")
        frame = pl.DataFrame([asdict(row) for row in validate_cell(cell, settings)], infer_schema_length=None)
        if place is not None:
            write_table(frame, place)
        frames.append(frame)
    whole = pl.concat(frames, how="vertical_relaxed")
    if folder is not None:
        write_table(whole, folder / "validation.parquet")
    return whole


def validate_cell(cell: Cell, settings: ValidationSettings) -> list[ValidationRow]:
    """The rows of one data set; as `run_validation`."""
    pairs = train_pairs(
        open_generator(cell.generator), cell.level, cell.phi_depth, (0.0, 1.0), settings.seeds,
        settings=PairSettings(steps=settings.steps), private=settings.private,
    )  # fmt: skip
    plain, private = exact_effects(pairs, settings.draws)
    rows: list[ValidationRow] = []
    for seed in settings.advised:
        [advice] = advise_rows(feature_rows(pairs, seed, settings), settings.advice)
        rows += [
            _row(cell, seed, answer, plain[key], private[key])
            for answer in advice.answers
            if (key := (answer.use, _SIDES[answer.reads], answer.labels)) in plain
        ]
    return rows


def exact_effects(pairs: TrainedPairs, draws: int) -> tuple[dict[Key, list[float]], dict[Key, list[float]]]:
    """Exact accuracy at lambda = 1 less that at lambda = 0 of each use, seed by seed: all aligned, and some private."""
    of = {
        (member.contrast, member.seed, member.aligned == pairs.ensemble.shape.features): {
            (row.use, row.side, row.labels): row.accuracy for row in rows
        }
        for member, rows in zip(pairs.members, use_accuracies(pairs, draws), strict=True)
    }
    seeds = [*dict.fromkeys(member.seed for member in pairs.members)]
    uses = of[0.0, seeds[0], True]
    plain, private = (
        {use: [of[1.0, seed, whole][use] - of[0.0, seed, True][use] for seed in seeds] for use in uses}
        for whole in (True, False)
    )
    return plain, private


def feature_rows(pairs: TrainedPairs, seed: int, settings: ValidationSettings) -> Labelled:
    """Features of test rows by the encoders of a seed at lambda = 0."""
    number = next(at for at, one in enumerate(pairs.members) if one.seed == seed and one.contrast == 0)
    first, second = (values[: settings.rows] for values in pairs.rows(number, "test"))
    y = pairs.data.parts["test"].labels[: settings.rows].astype(np.int64)
    folds = group_folds(y, folds=settings.advice.folds, seed=settings.advice.seed)
    classes = tuple(map(str, range(pairs.data.table.shape[3])))
    return Labelled({"first": first, "second": second}, y, folds, np.arange(len(y)), classes)


def _row(cell: Cell, seed: int, answer: AdviceRow, plain: Sequence[float], private: Sequence[float]) -> ValidationRow:
    effect, low, high, _ = student(list(plain))
    low, high = (effect if end is None else end for end in (low, high))
    beside = float(np.mean(private))
    return ValidationRow(
        cell.generator, cell.level, cell.phi_depth, seed, answer.use, answer.reads, answer.labels,
        effect, low, high, beside, answer.answer, answer.effect, answer.ci_low, answer.ci_high, answer.private_effect,
        judged(answer.answer, effect, beside), low > 0 or high < 0,
    )  # fmt: skip


def judged(answer: str, exact: float, exact_private: float) -> str:
    """Whether an answer has the sign of the effect.

    "align" says that the effect is above 0, "keep apart" that it is below. "align with a private part" says that
    aligning some features does not harm as aligning all does: it is wrong where that loses LEAST_EFFECT or more.

    Args:
        answer: One of ANSWERS.
        exact: Effect of aligning all features.
        exact_private: Of aligning some.

    Returns:
        "small" where the effect is below LEAST_EFFECT; else "right", "wrong", or "open" for "cannot tell".

    Example:
        >>> judged("align", 0.2, 0.1), judged("align", -0.2, 0.1), judged("cannot tell", 0.2, 0.1)
        ('right', 'wrong', 'open')
    """
    if abs(exact) < LEAST_EFFECT:
        return "small"
    if answer == OPEN:
        return "open"
    right = {ALIGN: exact > 0, APART: exact < 0, PRIVATE: exact_private > -LEAST_EFFECT}[answer]
    return "right" if right else "wrong"


@dataclass(frozen=True)
class CoverageRow:
    """One quantity of bits whose table is known, as it is and as it was found.

    Args:
        generator: Of the table.
        level: Of the table.
        seed: Of the rows.
        quantity: One of INFORMATIONS or PARTS.
        exact: In nats; parts by BROJA of the table.
        value: As estimated.
        ci_low: Lower end of the interval of the bounds.
        ci_high: Upper end.
        covered: Whether the interval has the exact value in it.
        close: Whether all three informations of these rows are within the shortfall of the exact ones.
    """

    generator: str
    level: int
    seed: int
    quantity: str
    exact: float
    value: float
    ci_low: float
    ci_high: float
    covered: bool
    close: bool


def bits_coverage(
    generator: Generator, level: int, *, rows: int = 20_000, seed: int = 0, folds: int = 5, shortfall: float = SHORTFALL
) -> list[CoverageRow]:
    """Information found in the bits of both modalities themselves, beside what there is exactly.

    Args:
        generator: Of the table.
        level: One of its levels.
        rows: Drawn.
        seed: Of the rows and their labels.
        folds: Of the classifiers.
        shortfall: That intervals allow for, in nats.

    Raises:
        DataInvalid: If the generator has no such level.
    """
    codes = draw(generator, level, np.random.RandomState(seed))
    at, size = np.random.default_rng(seed).permutation(len(codes.labels))[:rows], 2**generator.unique
    bits, y = all_bits(generator.shared + generator.unique).astype(np.float64), codes.labels[at].astype(np.int64)
    spaces = [bits[codes.shared[at] * size + own[at]] for own in (codes.unique1, codes.unique2)]
    parts = group_folds(y, folds=folds, seed=seed)
    first, second = (cross_fit(x, y, parts) for x in spaces)
    both = cross_fit(np.concatenate(spaces, axis=1), y, parts, parts=(first, second))
    joint = joint_table(generator.table(level))
    margins = (joint.sum(axis=1), joint.sum(axis=0), joint.reshape(-1, joint.shape[2]))
    exact = dict(zip(INFORMATIONS, map(mutual_information, margins), strict=True)) | asdict(broja(joint))
    found = information_rows(first, second, both, y, shortfall=shortfall)
    close = all(abs(row.value - exact[row.quantity]) <= shortfall for row in found if row.quantity in INFORMATIONS)
    return [
        CoverageRow(
            generator.name, level, seed, row.quantity, exact[row.quantity], row.value, row.ci_low, row.ci_high,
            row.ci_low - _GAP <= exact[row.quantity] <= row.ci_high + _GAP, close,
        )
        for row in found
    ]  # fmt: skip


def calibration_table(rows: "pl.DataFrame") -> "pl.DataFrame":
    """How often answers were right, by set of data sets and use.

    Args:
        rows: From `run_validation`.

    Returns:
        set ("frozen on", "judged on"), use, answers, cells (exact effect of LEAST_EFFECT or more), right, wrong, open,
        certain (of the cells, those whose effect's interval leaves 0 out), wrong_certain, rank (Spearman's correlation
        of measured and exact effects, over all answers).
    """
    import polars as pl

    named = rows.with_columns(
        pl.when(pl.col("generator") == RELEASED).then(pl.lit("frozen on")).otherwise(pl.lit("judged on")).alias("set")
    )
    whole = named.with_columns(pl.lit("all").alias("use"))
    large = pl.col("outcome") != "small"
    return (
        pl.concat([named, whole])
        .group_by("set", "use", maintain_order=True)
        .agg(
            pl.len().alias("answers"),
            large.sum().alias("cells"),
            *((pl.col("outcome") == one).sum().alias(one) for one in ("right", "wrong", "open")),
            (large & pl.col("certain")).sum().alias("certain"),
            ((pl.col("outcome") == "wrong") & pl.col("certain")).sum().alias("wrong_certain"),
            pl.corr("measured", "exact", method="spearman").alias("rank"),
        )
    )


def quick() -> ValidationSettings:
    """Settings that a test can afford: two seeds, few steps, few rows. Their answers say nothing."""
    advice = replace(ValidationSettings().advice, steps=8, draws=1, width=4)
    return ValidationSettings(seeds=(0, 1), steps=10, rows=360, draws=1, advice=advice)
