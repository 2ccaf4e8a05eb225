"""The ledger: every claim judged by the tables of a study, corrected for the number of claims, written twice."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from featcache.errors import UsageError
from featcache.metrics.measure.contrasts import holm
from featcache.metrics.measure.row import p_text
from featcache.storage.outputs import parquet_bytes, write_output
from featcache.studies.experiments.spec import nearest
from featcache.studies.ledger.claims import Claim
from featcache.studies.ledger.estimators import ESTIMATORS, Effect, matching

if TYPE_CHECKING:
    import polars as pl

ALPHA = 0.05
HELD, FAILED, UNKNOWN = "held", "failed", "cannot tell here"


class Expectation(Protocol):
    """What a claim says of its effect, and what data it is about."""

    @property
    def expect(self) -> str:
        """Whether the effect is claimed to be "above" 0, "below" 0, or something that data can only refute."""
        ...

    @property
    def needs(self) -> Mapping[Any, str]:
        """Field of an entry -> the value that it must have for a verdict."""
        ...


@dataclass(frozen=True)
class Entry:
    """One claim on one data set against one reference.

    Args:
        claim: Its id.
        source: Whose claim it is.
        text: The claim.
        experiment: Whose tables it was computed from.
        profile: Of the experiment.
        dataset: "" where there are no rows.
        reference: View, encoder and layer.
        layers: JSON of the sides with encoder and layer; "" where the rows are of several.
        metric: Of the rows.
        estimator: How the effect is estimated.
        expect: Whether the effect is claimed to be "above" or "below" 0.
        effect: Its value.
        low: Lower end of the interval, not adjusted for other claims.
        high: Upper end.
        interval: What the interval is of.
        n: Seeds; of ranks, encoders.
        test_groups: Groups of the test split.
        p: Two-sided.
        family: Claims that p_holm is adjusted among.
        p_holm: p after Holm's correction.
        direction: "above", "below" or "cannot tell": what the data here say of the effect.
        verdict: "held", "failed" or "cannot tell here": what they say of the claim.
        rows: Rows that the effect was computed from.
        selection: JSON of how these rows are found in the experiment's table.
        note: Why there is no effect, interval or verdict, or "".
    """

    claim: str
    source: str
    text: str
    experiment: str
    profile: str
    dataset: str = ""
    reference: str = ""
    layers: str = ""
    metric: str = ""
    estimator: str = ""
    expect: str = ""
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    n: int = 0
    test_groups: int | None = None
    p: float | None = None
    family: str = ""
    p_holm: float | None = None
    direction: str = "cannot tell"
    verdict: str = UNKNOWN
    rows: int = 0
    selection: str = ""
    note: str = ""


def judge(claims: Sequence[Claim], study: Path, profile: str) -> list[Entry]:
    """Judges claims by the tables of a study, each on every data set and reference of its experiment.

    Args:
        claims: In the order of the ledger.
        study: The folder of the study.
        profile: Whose tables are read.
    """
    tables: dict[tuple[str, str], pl.DataFrame | None] = {}
    entries = [entry for claim in claims for entry in _entries(claim, study, profile, tables)]
    return with_verdicts(entries, {claim.id: claim for claim in claims})


def _entries(
    claim: Claim, study: Path, profile: str, tables: "dict[tuple[str, str], pl.DataFrame | None]"
) -> Iterator[Entry]:
    import polars as pl

    name = "contrasts" if claim.estimator == "contrast" else "rows"
    file = study / claim.experiment / profile / f"{name}.parquet"
    if (claim.experiment, name) not in tables:
        tables[claim.experiment, name] = pl.read_parquet(file) if file.is_file() else None
    table = tables[claim.experiment, name]
    blank = Entry(
        claim.id, claim.source, claim.text, claim.experiment, profile, metric=claim.metric, estimator=claim.estimator,
        expect=claim.expect, family=claim.family or claim.source,
    )  # fmt: skip
    if table is None:
        command = f"featcache sweep experiments/{claim.experiment}.toml --profile {profile}"
        if claim.estimator == "rank":
            command = f"featcache competence DATASET ENCODER ENCODER ENCODER --out {file}"
        yield replace(blank, note=f"no tables of {claim.experiment}; run: {command}")
        return
    where = {"metric": claim.metric, "split": "test", **_usual(claim), **claim.where}
    rows = matching(table, where)
    if rows.is_empty():
        note = _mistyped(table, where, claim) or f"no such rows among the {len(table)} of {claim.experiment}"
        yield replace(blank, selection=_json(where), note=note)
        return
    for (dataset, reference), part in rows.group_by(["dataset", "reference"], maintain_order=True):
        effect = ESTIMATORS[claim.estimator](claim, part)
        found = {**where, "dataset": dataset, "reference": reference}
        found |= {name: value for name in ("contrast", "a", "b", "over") if (value := getattr(claim, name))}
        layers = part["layers"].unique().to_list()
        at = {"dataset": str(dataset), "reference": str(reference), "layers": layers[0] if len(layers) == 1 else ""}
        yield replace(_filled(blank, effect), **at, selection=_json(found))


def _mistyped(table: "pl.DataFrame", where: Mapping[str, Any], claim: Claim) -> str:
    """Which column or value of a claim the table does not have at all, with the nearest that it has; "" for none."""
    for name in (*where, *claim.a, *claim.b, *filter(None, [claim.over])):
        if name not in table.columns:
            return f"no column {name} in the table of {claim.experiment}{nearest(name, table.columns)}"
    for name, wanted in where.items():
        there = table[name].unique().to_list()
        if isinstance(wanted, str) and wanted not in there:
            return f"no {name} {wanted!r}{nearest(wanted, [str(one) for one in there if one])}"
    return ""


def _usual(claim: Claim) -> dict[str, Any]:
    """What rows are taken unless the claim compares them: trained adapters, and pairs that are right."""
    usual = {"control": ""} if claim.estimator == "contrast" else {"control": "", "stage": "trained"}
    usual |= {"stage": "raw"} if claim.estimator == "rank" else {}
    return {name: value for name, value in usual.items() if name not in {**claim.a, **claim.b}}


def _filled(entry: Entry, effect: Effect) -> Entry:
    values = asdict(effect)
    return replace(entry, effect=values.pop("value"), **values)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def with_verdicts(entries: Sequence[Entry], claims: Mapping[str, Expectation]) -> list[Entry]:
    """Entries with Holm's correction within a family, and what follows of the effect and of the claim.

    An entry without p counts as one of its family: the family is what was declared. So the chance of any false word in
    a family is at most ALPHA.

    Args:
        entries: As estimated.
        claims: By id.
    """
    judged = list(entries)
    for family in dict.fromkeys(entry.family for entry in entries):
        places = [place for place, entry in enumerate(entries) if entry.family == family]
        p_values = [1.0 if (p := entries[place].p) is None else p for place in places]
        for place, p_holm in zip(places, holm(p_values), strict=True):
            if entries[place].p is not None:
                judged[place] = _judged(replace(entries[place], p_holm=p_holm), claims[entries[place].claim])
    return judged


def _judged(entry: Entry, claim: Expectation) -> Entry:
    effect = entry.effect or 0.0
    if entry.p_holm is None or entry.p_holm > ALPHA or not effect:
        alone = entry.p is not None and entry.p <= ALPHA
        return replace(entry, note="the interval leaves 0 out, but not after correction") if alone else entry
    direction = "above" if effect > 0 else "below"
    other = {name: value for name, value in claim.needs.items() if getattr(entry, name) != value}
    if other:
        wanted = ", ".join(f"{name} {value}" for name, value in other.items())
        note = f"other data or encoders than the claim is about ({wanted}): says nothing of it"
        return replace(entry, direction=direction, note=note)
    return replace(entry, direction=direction, verdict=HELD if direction == claim.expect else FAILED)


# -- files ------------------------------------------------------------------------------------------------------------


def ledger_table(entries: Sequence[Entry]) -> "pl.DataFrame":
    """The ledger as a table, a row an entry."""
    import polars as pl

    kinds = dict.fromkeys((each.name for each in fields(Entry)), pl.String)
    kinds |= dict.fromkeys(("effect", "low", "high", "p", "p_holm"), pl.Float64)
    kinds |= dict.fromkeys(("n", "test_groups", "rows"), pl.Int64)
    return pl.DataFrame([asdict(entry) for entry in entries], schema=kinds)


def ledger_page(entries: Sequence[Entry]) -> str:
    """The ledger as Markdown: a table for each source, and what verdicts and intervals mean."""
    lines = [
        "# Claims",
        "",
        f"Written by `featcache ledger`. A verdict is a two-sided test at {ALPHA:.2f} after Holm's correction within "
        "its family; intervals are 95 % and not corrected. Each says what it is of: an interval over seeds alone "
        "speaks of these test groups, not of new ones.",
    ]
    for source in dict.fromkeys(entry.source for entry in entries):
        lines += [
            "",
            f"## {source}",
            "",
            "| claim | on | effect | n | p (Holm) | here | verdict |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [_line(entry) for entry in entries if entry.source == source]
    of = dict.fromkeys(entry.interval for entry in entries if entry.interval)
    return "\n".join([*lines, "", *(f"- Interval: {words}." for words in of), ""])


def _line(entry: Entry) -> str:
    on = " against ".join(filter(None, (entry.dataset, entry.reference)))
    effect = "–" if entry.effect is None else f"{entry.metric}: {entry.effect:+.3f}"
    interval = "" if entry.low is None or entry.high is None else f" [{entry.low:+.3f}, {entry.high:+.3f}]"
    what = "encoders" if entry.estimator == "rank" else "seeds"
    n = f"{entry.n} {what}, {entry.test_groups or 0} test groups" if entry.n else "–"
    p = p_text(entry.p_holm) or "–"
    verdict = f"**{entry.verdict}**" + (f"; {entry.note}" if entry.note else "")
    cells = (
        f"{entry.text} (`{entry.claim}`, {entry.experiment})",
        on,
        effect + interval,
        n,
        p,
        entry.direction,
        verdict,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def entries_of(table: "pl.DataFrame", path: Path) -> list[Entry]:
    """The entries of a ledger that was read back.

    Args:
        table: As `ledger_table` makes it.
        path: Where it was read, for the error.

    Raises:
        UsageError: If it lacks a column, or one is of another type.
    """
    import polars as pl

    wanted = ledger_table([]).schema
    for name, kind in wanted.items():
        if table.schema.get(name) != kind:
            raise UsageError(f"{path}: column {name} is missing or no {kind}\n  Write it again: featcache ledger")
    empty: dict[str, Any] = dict.fromkeys((each.name for each in fields(Entry) if each.type is str), "")
    empty |= {"n": 0, "rows": 0}
    filled = table.select(list(wanted)).with_columns(pl.col(name).fill_null(value) for name, value in empty.items())
    return [Entry(**row) for row in filled.iter_rows(named=True)]


def write_ledger(entries: Sequence[Entry], folder: Path) -> tuple[Path, Path]:
    """Writes ledger.parquet and ledger.md, each whole or not at all; returns their paths."""
    table, page = folder / "ledger.parquet", folder / "ledger.md"
    write_output(table, parquet_bytes(ledger_table(entries)))
    write_output(page, ledger_page(entries).encode())
    return table, page
