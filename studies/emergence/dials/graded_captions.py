"""The graded dial: alignment of captions that were rewritten ever farther with the originals, and with their photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.cache import Cache
from featcache.data.graded_captions import GRADES, NAME, GradedCaptions, open_wit_graded, view_of
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.errors import FeaturesNotCached, UsageError
from featcache.extraction.extract import Extracted
from featcache.features import Features
from featcache.metrics.certainty.clustered import correlation
from featcache.studies.emergence.dials.correlations import dial_correlations
from featcache.studies.emergence.dials.doses import (
    DialResult,
    DialSettings,
    Dose,
    OnStep,
    drawn_groups,
    kept_groups,
    layers_of_view,
    measure_doses,
    write_tables,
)
from featcache.studies.emergence.dials.performance import bits_per_byte
from featcache.studies.emergence.dials.perturbed import encode_views

if TYPE_CHECKING:
    import polars as pl

DIAL = "graded"
TEXTS, WHOLE = "text–text", "image–text"


def extract_graded(
    cache: Cache,
    root: Path,
    encoders: Sequence[str],
    *,
    grades: Sequence[int] = GRADES,
    options: EncodeOptions | None = None,
    on_step: OnStep | None = None,
) -> list[Extracted]:
    """Encodes graded captions, and the photos of WIT where they lie beside them; what is there is not computed again.

    Args:
        cache: The cache.
        root: Folder with data.json, or that file.
        encoders: Names; those of images encode the photos.
        grades: Percent that text encoders encode; 0 has the originals.
        options: As `plan_job`.
        on_step: Called with each encoder and view before it is encoded.

    Returns:
        What was done, view by view.

    Raises:
        UsageError: If a grade is unknown, or an encoder of images has no photos.
        DataMissing, DataInvalid, WeightsMissing, ExtractionFailed: As `open_wit_graded`, `plan_job` and `extract`.
    """
    _check_grades(grades)
    dataset = open_wit_graded(root)
    done: list[Extracted] = []
    for encoder in encoders:
        of_images = encoder_spec(encoder).modality == "image"
        if of_images and "images" not in dataset.views:
            raise UsageError(f"{encoder} encodes images, and {dataset.notes[0]}\n  Name encoders of texts")
        views = ["images"] if of_images else [view_of(grade) for grade in grades]
        done += encode_views(cache, dataset, encoder, views, options or EncodeOptions(), on_step)
    return done


def graded_captions(
    cache: Cache,
    graded: str,
    original: str,
    settings: DialSettings | None = None,
    *,
    grades: Sequence[int] = (),
    out: Path | None = None,
    on_step: OnStep | None = None,
) -> DialResult:
    """Alignment of encoder A's layers on graded captions with encoder B's on the originals: called text–text.

    Where B is an encoder of images, the photos stand in the place of the originals, and the comparison is image–text as
    published. There are no labels: a layer has no performance but bits per byte of language models.

    Args:
        cache: The cache, with the data set wit_graded in it (`extract_graded`).
        graded: A, an encoder of texts.
        original: B, an encoder of texts or of images.
        settings: How it is measured; None for `DialSettings()`.
        grades: Percent; () for all of which A is cached.
        out: Folder for the tables, OUT/graded/wit_graded/A-B; None for nowhere.
        on_step: Called with each step in words.

    Raises:
        UsageError: If a grade is unknown.
        FeaturesNotCached: If A is cached at no grade, or B for neither photos nor originals.
        Ambiguous, NotPaired, MetricError: As `layers_of_view` and `measure_doses`.
    """
    settings = settings or DialSettings()
    _check_grades(grades)
    chosen = [grade for grade in grades or GRADES if grades or _has(cache, view_of(grade), graded)]
    if not chosen:
        raise FeaturesNotCached(
            f"no features of {graded} on graded captions in {cache.folder}\n"
            f"  Run: featcache emergence graded FILE {graded} {original}"
        )
    comparison = WHOLE if _has(cache, "images", original) else TEXTS
    first = layers_of_view(cache, NAME, "images" if comparison == WHOLE else view_of(0), [original])
    texts = {grade: layers_of_view(cache, NAME, view_of(grade), [graded]) for grade in chosen}
    measured = drawn_groups([*first.arrays, *texts[chosen[0]].arrays], settings.rows, settings.seed)
    x = [kept_groups(each, measured) for each in first.arrays]
    doses = (
        Dose(grade / 100, f"{grade}% rewritten", 0, x, [kept_groups(each, measured) for each in layers.arrays])
        for grade, layers in texts.items()
    )
    defaults = (first.defaults, texts[chosen[0]].defaults)
    alignment = measure_doses(DIAL, doses, defaults, settings, comparison=comparison, on_step=on_step)
    views = {view_of(grade): (grade / 100, f"{grade}% rewritten", 0) for grade in chosen}
    bits = bits_per_byte(cache, NAME, views, measured)
    correlations = dial_correlations(alignment, None, bits)
    tables = {"alignment": alignment, "correlations": correlations, "bits": bits}
    paths = write_tables(None if out is None else out / DIAL / NAME / f"{graded}-{original}", tables)
    notes = ("no labels: layers have no performance but bits per byte of language models",)
    return DialResult(alignment, None, correlations, bits, notes, paths)


@dataclass(frozen=True)
class GradedSimilarity:
    """Cosines of the captions of a grade with the originals, ours beside the recorded ones.

    Args:
        grade: Percent.
        recorded: Mean of the file's.
        measured: Mean of ours.
        gap: Mean absolute difference over rows.
        correlation: Pearson's, over rows; NaN where one of both does not vary.
        n: Rows.
    """

    grade: int
    recorded: float
    measured: float
    gap: float
    correlation: float
    n: int


def graded_similarities(cache: Cache, encoder: str, graded: GradedCaptions) -> list[GradedSimilarity]:
    """Cosines of each cached grade with the originals by an encoder's default layer, beside those of the file.

    Args:
        cache: The cache, with the data set wit_graded in it.
        encoder: Of texts.
        graded: The file, read.

    Returns:
        One a grade that is cached.

    Raises:
        FeaturesNotCached: If the originals are not.
    """
    originals = _rows(cache.load(NAME, f"{view_of(0)}/{encoder}", dtype="float32"))
    rows: list[GradedSimilarity] = []
    for place, grade in enumerate(GRADES[1:]):
        if not _has(cache, view_of(grade), encoder):
            continue
        own = _rows(cache.load(NAME, f"{view_of(grade)}/{encoder}", dtype="float32"))
        shared = sorted(own.keys() & originals.keys())
        ours = np.array([float(own[row] @ originals[row]) for row in shared])
        theirs = np.array([graded.similarities[row][place] for row in shared])
        rows.append(
            GradedSimilarity(
                grade, float(theirs.mean()), float(ours.mean()), float(np.abs(ours - theirs).mean()),
                correlation(ours, theirs), len(shared),
            )
        )  # fmt: skip
    return rows


def similarity_table(rows: Sequence[GradedSimilarity]) -> "pl.DataFrame":
    """The rows of `graded_similarities` as a table."""
    import polars as pl

    return pl.DataFrame([vars(row) for row in rows])


def _rows(features: Features) -> dict[int, np.ndarray]:
    """Row number -> its values, of length 1."""
    values = features.values.astype(np.float64)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return {int(row): value for row, value in zip(features.ids.tolist(), values, strict=True)}


def _has(cache: Cache, view: str, encoder: str) -> bool:
    return cache.holds(NAME, f"{view}/{encoder}")


def _check_grades(grades: Sequence[Any]) -> None:
    unknown = [grade for grade in grades if grade not in GRADES]
    if unknown:
        raise UsageError(f"grade {unknown[0]}: there are {', '.join(map(str, GRADES))} percent")
