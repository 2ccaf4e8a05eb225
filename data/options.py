"""What a user declares of data of their own when it is opened."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from featcache.data.errors import DataInvalid

SECONDS = 10.0  # that are kept of a clip of sound, where nothing else is declared
ROLES = ("image", "caption", "id", "group", "split", "label")
MANY = ("caption", "label")  # roles that several columns may have


@dataclass(frozen=True)
class OpenOptions:
    """Declarations about data of the user's own; the defaults declare nothing.

    Args:
        float_range: Values of floating-point images that are black and white; None refuses such images.
        split: Shares of train, validation and test, as in "80/10/10", by which groups are split, or "none"; None where
            the data's own splits hold, and 80/10/10 where it has none.
        seed: Seed of the hash that splits groups.
        layout: One of `layouts.LAYOUTS`; None where the folder tells.
        column: (role of `ROLES`, column) of Parquet files, or the field of WebDataset samples; the rest is guessed.
        allow_missing: Leave out images that a list names and that are not there.
        seconds: What is kept of each clip of sound, from its beginning.
        frames: Pictures that are taken of each video, evenly spaced; one is the middle.
    """

    float_range: tuple[float, float] | None = None
    split: str | None = None
    seed: int = 0
    layout: str | None = None
    column: tuple[tuple[str, str], ...] = ()
    allow_missing: bool = False
    seconds: float = SECONDS
    frames: int = 1

    def given(self) -> list[str]:
        """The command line's names of what is declared."""
        return [f"--{each.name.replace('_', '-')}" for each in fields(self) if getattr(self, each.name) != each.default]

    def over(self, other: "OpenOptions") -> "OpenOptions":
        """These options, and those of another where these declare nothing; a seed belongs to its split."""
        given = {each.name for each in fields(self) if getattr(self, each.name) != each.default}
        given |= {"seed"} if "split" in given else set()
        return replace(other, **{name: getattr(self, name) for name in given})

    def columns(self, role: str) -> tuple[str, ...]:
        """The columns that are declared for a role."""
        return tuple(name for own, name in self.column if own == role)


def parse_columns(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(role, column) of each text such as "image=jpg".

    Raises:
        DataInvalid: If one has another form or an unknown role, or a role that takes one column has two.

    Example:
        >>> parse_columns(["image=jpg", "caption=short", "caption=long"])
        (('image', 'jpg'), ('caption', 'short'), ('caption', 'long'))
    """
    columns: list[tuple[str, str]] = []
    for text in texts:
        role, equals, name = text.partition("=")
        if role not in ROLES or not equals or not name:
            near = difflib.get_close_matches(role, ROLES, n=1)
            guess = f"; did you mean {near[0]}={name or 'NAME'}?" if near else ""
            raise DataInvalid(f"--column {text}: wanted ROLE=NAME with a role of {', '.join(ROLES)}{guess}")
        if role not in MANY and any(role == own for own, _ in columns):
            raise DataInvalid(f"--column {text}: {role} has one column; only {' and '.join(MANY)} may have several")
        columns.append((role, name))
    return tuple(columns)
