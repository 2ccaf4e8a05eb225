"""The form of the file of claims: what is claimed, by whom, and which rows of which experiment decide it."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from featcache.studies.experiments.spec import ExperimentInvalid, nearest

Select = dict[str, Any]


class Claim(BaseModel):
    """One claim, and how it is judged.

    Args:
        id: A short name, unique in the file.
        source: Whose claim it is.
        text: The claim, one sentence.
        experiment: Whose tables it is computed from.
        estimator: A name of `featcache.studies.ledger.estimators.ESTIMATORS`.
        expect: Whether the effect is claimed to be above or below 0.
        metric: Of the rows.
        contrast: For "contrast", its name.
        where: Column -> value, or list of values, of the rows; split "test" unless it says otherwise.
        a: For "difference", what the rows have of which those of b are subtracted.
        b: The others.
        over: For "trend", the column whose slope is estimated; for "rank", the one that is correlated with the score.
        scale: Of that column.
        family: Claims of one family are corrected together (Holm); by default those of one source.
        needs: dataset, reference or layers -> value that the tables must have for the claim as it was made; on other
            data its effect is given, and its verdict is "cannot tell here".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    source: str
    text: str
    experiment: str
    estimator: Literal["contrast", "difference", "trend", "rank"]
    expect: Literal["above", "below"]
    metric: str = "mutual_knn"
    contrast: str = ""
    where: Select = {}
    a: Select = {}
    b: Select = {}
    over: str = ""
    scale: Literal["linear", "log2"] = "linear"
    family: str = ""
    needs: dict[Literal["dataset", "reference", "layers"], str] = {}


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    claims: Annotated[list[Claim], Field(min_length=1)]


_WANTED = {"contrast": ("contrast",), "difference": ("a", "b"), "trend": ("over",), "rank": ("over",)}


def load_claims(file: Path) -> list[Claim]:
    """Reads a file of claims.

    Raises:
        ExperimentInvalid: If it cannot be read, a key is not known, an estimator lacks what it needs, or two claims
            share an id; names file and claim.
    """
    try:
        claims = _File.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))).claims
    except ValidationError as error:
        raise ExperimentInvalid("\n  ".join(_problem(one, file) for one in error.errors())) from None
    except FileNotFoundError:
        raise ExperimentInvalid(
            f"no claims at {file}: the shipped ones are experiments/claims.toml of the checkout\n"
            "  Run it there, or name a file of your own (docs/experiments.md)"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExperimentInvalid(f"{file} cannot be read: {error}") from None
    ids = [claim.id for claim in claims]
    for claim in claims:
        if ids.count(claim.id) > 1:
            raise ExperimentInvalid(f"{file}: two claims are called {claim.id}")
        every = dict.fromkeys(name for names in _WANTED.values() for name in names)
        for name in every:
            given = bool(getattr(claim, name))
            if given != (name in _WANTED[claim.estimator]):
                which = "lacks" if not given else "has no use for"
                raise ExperimentInvalid(f"{file}: {claim.id}: the estimator {claim.estimator} {which} {name}")
    return claims


def _problem(error: Any, file: Path) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = Claim.model_fields if len(error["loc"]) > 1 else _File.model_fields
        return f"{file}: unknown key {place}{nearest(str(error['loc'][-1]), known)}"
    return f"{file}: {place}: {error['msg']}"
