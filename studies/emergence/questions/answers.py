"""The answers of the synthetic study: tidy tables, and the ledger of claims, from the tables of its encoders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.storage.outputs import parquet_bytes, write_output
from featcache.studies.emergence.questions.claims import load_emergence_claims
from featcache.studies.emergence.questions.correlations import relations
from featcache.studies.emergence.questions.depth_law import depth_law
from featcache.studies.emergence.questions.estimators import Evidence
from featcache.studies.emergence.questions.ledger import EmergenceEntry, judge_emergence, write_emergence_ledger
from featcache.studies.emergence.questions.maxima import (
    best_of_models,
    by_depth,
    information,
    maxima,
    maximum_bias,
    metric_agreement,
)
from featcache.studies.emergence.synthetic.encoders import EmergenceTables

if TYPE_CHECKING:
    import polars as pl

TABLES = ("maxima", "by_depth", "bias", "metric_agreement", "relations", "depth_law")


@dataclass(frozen=True, eq=False)
class Answers:
    """What the study says.

    Args:
        folder: Where its tables lie, and the answers beside them.
        profile: Name of its sizes.
        maxima: From `featcache.studies.emergence.questions.maxima`.
        by_depth: From `featcache.studies.emergence.questions.maxima.by_depth`.
        bias: From `featcache.studies.emergence.questions.maxima.maximum_bias`.
        metric_agreement: From `featcache.studies.emergence.questions.maxima.metric_agreement`.
        relations: From `featcache.studies.emergence.questions.correlations.relations`.
        depth_law: From `featcache.studies.emergence.questions.depth_law.depth_law`.
        entries: Of the ledger.
    """

    folder: Path
    profile: str
    maxima: "pl.DataFrame"
    by_depth: "pl.DataFrame"
    bias: "pl.DataFrame"
    metric_agreement: "pl.DataFrame"
    relations: "pl.DataFrame"
    depth_law: "pl.DataFrame"
    entries: Sequence[EmergenceEntry]


def answer_emergence(tables: EmergenceTables, profile: str) -> Answers:
    """Computes every answer and writes it beside the tables: a Parquet file each, ledger.parquet and ledger.md.

    Args:
        tables: Of the encoders; from `read_emergence` where they lie in a folder.
        profile: Name of their sizes, for the ledger.

    Raises:
        ExperimentInvalid: If the file of claims is not as it should be.
        OutputFailed: If the folder cannot be written.
    """
    best, exact = best_of_models(tables), information(tables)
    largest = maxima(best, exact)
    found = relations(best, largest)
    claims, series = load_emergence_claims()
    entries = judge_emergence(claims, series, Evidence(best, largest, found, tables.oracles), profile)
    agreement = metric_agreement(tables, best)
    answers = Answers(
        tables.folder, profile, largest, by_depth(best), maximum_bias(best), agreement, found, depth_law(best), entries
    )
    for name in TABLES:
        write_output(tables.folder / f"{name}.parquet", parquet_bytes(getattr(answers, name)))
    write_emergence_ledger(entries, tables.folder)
    return answers
