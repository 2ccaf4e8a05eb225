"""Claims about the synthetic study as data: what was claimed and published, and how each is estimated."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from featcache.studies.emergence.synthetic.generators import RELEASED
from featcache.studies.experiments.spec import ExperimentInvalid, nearest

CLAIMS = Path(__file__).with_name("claims.toml")


class Published(BaseModel):
    """Values of one released figure.

    Args:
        name: What claims and figures call it by.
        source: Where it was published, and how it was read.
        uniqueness: U of each value.
        value: The values.
        method: Of a coefficient; "" where it is none.
        phi_depth: Of the map of the second modality; None where it is over all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    uniqueness: Annotated[list[int], Field(min_length=1)]
    value: list[float]
    method: Literal["", "pearson", "spearman"] = ""
    phi_depth: int | None = None


class Exact(BaseModel):
    """A sum of columns of the oracles minus another, at one label table.

    Args:
        uniqueness: U of the table.
        plus: Columns that are added.
        minus: Columns that are taken away.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uniqueness: int
    plus: Annotated[list[str], Field(min_length=1)]
    minus: list[str] = []


class EmergenceClaim(BaseModel):
    """One claim, and how it is judged.

    Args:
        id: A short name, unique in the file.
        source: Whose claim it is.
        text: The claim, one sentence.
        estimator: "relation": one row of the table of correlations; "coefficients": mean over the U of `a` of the
            correlations within each, minus that over `b`; "law": mean over U of a slope of `DepthLaw` or of
            `share_gap`; "bias": maximum of estimates minus that of exact values; "exact": a difference of exact
            quantities.
        expect: Whether the effect is claimed to be above 0, below 0, or 0, which data can refute and not show.
        where: Column -> value of the rows; the other columns of correlations as for all models of a setting.
        a: For "coefficients", U of the first mean.
        b: U of the second.
        at: For "exact", the quantities.
        published: What was published, in words.
        series: Name of a released figure, whose mean over `a`, minus that over `b`, stands beside the effect.
        family: Claims of one family are corrected together (Holm); by default those of one source.
        needs: dataset or profile -> value that the tables must have for the claim as it was made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    source: str
    text: str
    estimator: Literal["relation", "coefficients", "law", "bias", "exact"]
    expect: Literal["above", "below", "zero"]
    where: dict[str, Any] = {}
    a: list[int] = []
    b: list[int] = []
    at: Exact | None = None
    published: str = ""
    series: str = ""
    family: str = ""
    needs: dict[Literal["dataset", "profile"], str] = {"dataset": RELEASED}


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    published: list[Published] = []
    claims: Annotated[list[EmergenceClaim], Field(min_length=1)]


# what an estimator reads of a claim, all of it needed but for what is in brackets
_READS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "relation": ("where",),
        "coefficients": ("where", "a", "(b)"),
        "law": ("where",),
        "bias": ("where",),
        "exact": ("at",),
    }
)
_WHERE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "relation": ("question", "x", "metric", "method", "(points)", "(uniqueness)", "(phi_depths)"),
        "coefficients": ("x", "y", "metric", "method", "(question)"),
        "law": ("outcome", "term"),
        "bias": ("metric",),
    }
)


def load_emergence_claims(file: Path = CLAIMS) -> tuple[list[EmergenceClaim], dict[str, Published]]:
    """Reads a file of claims about the synthetic study.

    Returns:
        The claims in their order, and the released figures by name.

    Raises:
        ExperimentInvalid: If it cannot be read, a key is unknown, an estimator lacks what it needs or is given what it
            does not read, two claims share an id, or a released figure is unknown; names file and claim.
    """
    try:
        content = _File.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ExperimentInvalid("\n  ".join(_problem(one, file) for one in error.errors())) from None
    except FileNotFoundError:
        raise ExperimentInvalid(f"no claims at {file}\n  The shipped ones are {CLAIMS}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExperimentInvalid(f"{file} cannot be read: {error}") from None
    series = {one.name: one for one in content.published}
    for one in content.published:
        if len(one.value) != len(one.uniqueness):
            raise ExperimentInvalid(f"{file}: {one.name}: {len(one.uniqueness)} U and {len(one.value)} values")
    for problem in (problem for claim in content.claims for problem in _problems(claim, content.claims, series)):
        raise ExperimentInvalid(f"{file}: {problem}")
    return content.claims, series


def _problems(claim: EmergenceClaim, claims: list[EmergenceClaim], series: Mapping[str, Published]) -> list[str]:
    """What is wrong with a claim as a whole."""
    problems = [f"two claims are called {claim.id}"] if sum(one.id == claim.id for one in claims) > 1 else []
    given = [name for name in ("where", "a", "b", "at") if getattr(claim, name)]
    problems += _mismatch(claim, given, _READS[claim.estimator], "")
    problems += _mismatch(claim, [*claim.where], _WHERE.get(claim.estimator, ()), "where.")
    if claim.series and claim.series not in series:
        problems.append(f"{claim.id}: no released figure {claim.series!r}{nearest(claim.series, series)}")
    return problems


def _mismatch(claim: EmergenceClaim, given: list[str], reads: tuple[str, ...], prefix: str) -> list[str]:
    known = [name.strip("()") for name in reads]
    lacks = [name for name in reads if not name.startswith("(") and name not in given]
    other = [name for name in given if name not in known]
    of = f"{claim.id}: the estimator {claim.estimator}"
    return [f"{of} lacks {prefix}{name}" for name in lacks] + [
        f"{of} has no use for {prefix}{name}{nearest(name, known)}" for name in other
    ]


def _problem(error: Any, file: Path) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = {"claims": EmergenceClaim, "published": Published}.get(str(error["loc"][0]), _File).model_fields
        return f"{file}: unknown key {place}{nearest(str(error['loc'][-1]), known)}"
    return f"{file}: {place}: {error['msg']}"
