"""The ledger of claims about the synthetic study: effects, intervals and verdicts beside what was published."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.errors import UsageError
from featcache.metrics.measure.row import p_text
from featcache.storage.outputs import parquet_bytes, write_output
from featcache.studies.emergence.questions.claims import EmergenceClaim, Published
from featcache.studies.emergence.questions.estimators import ESTIMATORS, Evidence
from featcache.studies.emergence.synthetic.written import SETTING
from featcache.studies.ledger.ledger import ALPHA, FAILED, HELD, Entry, entries_of, ledger_table, with_verdicts

if TYPE_CHECKING:
    import polars as pl

_EXACT = 0.005  # nats: an exact quantity no larger than this is 0 to the precision of the decomposition


@dataclass(frozen=True)
class EmergenceEntry:
    """An entry of the ledger and what was published.

    Args:
        entry: As of every ledger; its `n` are models.
        published: What was published, in words, or "".
        published_value: The value to stand beside the effect, or None.
    """

    entry: Entry
    published: str = ""
    published_value: float | None = None


def judge_emergence(
    claims: Sequence[EmergenceClaim], series: Mapping[str, Published], evidence: Evidence, profile: str
) -> list[EmergenceEntry]:
    """Judges every claim on every setting that the tables hold.

    Args:
        claims: In the order of the ledger.
        series: Released figures by name.
        evidence: Of all settings.
        profile: Name of the sizes that the tables were made with.
    """
    entries = [entry for key in _settings(evidence) for entry in _of_setting(claims, evidence, key, profile)]
    by_id = {claim.id: claim for claim in claims}
    judged = [_exactly(entry, by_id[entry.claim]) for entry in with_verdicts(entries, by_id)]
    return [EmergenceEntry(entry, *_published(by_id[entry.claim], series)) for entry in judged]


def _settings(evidence: Evidence) -> list[tuple[Any, ...]]:
    return evidence.best.select(SETTING).unique(maintain_order=True).rows()


def _of_setting(
    claims: Sequence[EmergenceClaim], evidence: Evidence, key: tuple[Any, ...], profile: str
) -> Iterator[Entry]:
    named = dict(zip(SETTING, key, strict=True))
    parts = {name: getattr(evidence, name).filter(**named) for name in ("best", "maxima", "relations")}
    own = Evidence(**parts, oracles=evidence.oracles.filter(generator=named["generator"]))
    where_from = f"{named['architecture']}, width {named['width']}"
    for claim in claims:
        found = ESTIMATORS[claim.estimator](claim, own)
        blank = Entry(
            claim.id, claim.source, claim.text, "emergence synthetic", profile, named["generator"], where_from,
            metric=str(claim.where.get("metric", "")), estimator=claim.estimator, expect=claim.expect,
            family=_family(claim, where_from, named["generator"]), selection=_selection(claim),
        )  # fmt: skip
        numbers = {"effect": found.value, "low": found.low, "high": found.high, "p": found.p}
        yield replace(blank, **numbers, n=found.models, rows=found.rows, interval=found.interval, note=found.note)


def _family(claim: EmergenceClaim, where_from: str, generator: str) -> str:
    """Claims of a source on one setting; what is exact is no test, and counts for no other."""
    own = f"{claim.family or claim.source}: {generator}, {where_from}"
    return f"{own}: {claim.id}" if claim.estimator == "exact" else own


def _selection(claim: EmergenceClaim) -> str:
    chosen = {**claim.where} | {name: value for name in ("a", "b") if (value := getattr(claim, name))}
    chosen |= claim.at.model_dump() if claim.at else {}
    return json.dumps(chosen, ensure_ascii=False)


def _exactly(entry: Entry, claim: EmergenceClaim) -> Entry:
    """The verdict on an exact quantity: its sign, or that it is 0; there is nothing to be uncertain of."""
    if claim.estimator != "exact" or entry.effect is None:
        return entry
    size = 0 if abs(entry.effect) <= _EXACT else 1 if entry.effect > 0 else -1
    expected = {"above": 1, "below": -1, "zero": 0}[claim.expect]
    direction = {0: "zero", 1: "above", -1: "below"}[size]
    if any(getattr(entry, name) != value for name, value in claim.needs.items()):
        return replace(entry, direction=direction, note="another generator than the claim is about")
    return replace(entry, direction=direction, verdict=HELD if size == expected else FAILED)


def _published(claim: EmergenceClaim, series: Mapping[str, Published]) -> tuple[str, float | None]:
    if not claim.series:
        return claim.published, None
    figure = series[claim.series]
    values = dict(zip(figure.uniqueness, figure.value, strict=True))
    first, second = ([values[level] for level in levels if level in values] for levels in (claim.a, claim.b))
    told = ", ".join(f"{value:.2f}".replace("0.", ".") for value in first)
    told += f" against {', '.join(f'{value:.2f}'.replace('0.', '.') for value in second)}" if second else ""
    mean = float(np.mean(first) - (np.mean(second) if second else 0.0)) if first else None
    return claim.published or f"{told} ({figure.source})", mean


# -- files ------------------------------------------------------------------------------------------------------------


def emergence_table(entries: Sequence[EmergenceEntry]) -> "pl.DataFrame":
    """The ledger as a table: the columns of every ledger, and what was published."""
    import polars as pl

    words = pl.Series("published", [entry.published for entry in entries], dtype=pl.String)
    values = pl.Series("published_value", [entry.published_value for entry in entries], dtype=pl.Float64)
    return ledger_table([entry.entry for entry in entries]).with_columns(words, values)


def emergence_entries(table: "pl.DataFrame", path: Path) -> list[EmergenceEntry]:
    """The entries of a ledger that was read back.

    Args:
        table: As `emergence_table` makes it.
        path: Where it was read, for the error.

    Raises:
        UsageError: If it lacks a column, or one is of another type.
    """
    import polars as pl

    for name, kind in (("published", pl.String), ("published_value", pl.Float64)):
        if table.schema.get(name) != kind:
            raise UsageError(f"{path}: column {name} is missing or no {kind}\n  Write it again: featcache emergence")
    entries = entries_of(table, path)
    told = zip(entries, table["published"], table["published_value"], strict=True)
    return [EmergenceEntry(entry, words or "", value) for entry, words, value in told]


def emergence_page(entries: Sequence[EmergenceEntry]) -> str:
    """The ledger as Markdown: a table for each source, with what was published beside what was found."""
    lines = [
        "# Claims about the synthetic study",
        "",
        f"Written by `featcache emergence synthetic`. A verdict is a two-sided test at {ALPHA:.2f} after Holm's "
        "correction within its source and setting; intervals are 95 % and not corrected. A claim that something is 0 "
        "can fail, not hold. Exact quantities of the label tables need no test.",
    ]
    for source in dict.fromkeys(each.entry.source for each in entries):
        lines += [
            "",
            f"## {source}",
            "",
            "| claim | on | effect | published | models | p (Holm) | verdict |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [_line(each) for each in entries if each.entry.source == source]
    of = dict.fromkeys(each.entry.interval for each in entries if each.entry.interval)
    return "\n".join([*lines, "", *(f"- Interval: {words}." for words in of), ""])


def _line(each: EmergenceEntry) -> str:
    entry = each.entry
    effect = "–" if entry.effect is None else f"{entry.effect:+.3f}"
    interval = "" if entry.low is None or entry.high is None else f" [{entry.low:+.3f}, {entry.high:+.3f}]"
    verdict = f"**{entry.verdict}**" + (f"; {entry.note}" if entry.note else "")
    cells = (
        f"{entry.text} (`{entry.claim}`)",
        f"{entry.dataset}, {entry.reference}",
        effect + interval,
        each.published or "–",
        str(entry.n or "–"),
        p_text(entry.p_holm) or "–",
        verdict,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write_emergence_ledger(entries: Sequence[EmergenceEntry], folder: Path) -> tuple[Path, Path]:
    """Writes ledger.parquet and ledger.md, each whole or not at all; returns their paths."""
    table, page = folder / "ledger.parquet", folder / "ledger.md"
    write_output(table, parquet_bytes(emergence_table(entries)))
    write_output(page, emergence_page(entries).encode())
    return table, page
