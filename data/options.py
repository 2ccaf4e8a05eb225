"""What a user declares of a folder of images when it is opened."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class OpenOptions:
    """Declarations about a folder of the user's; the defaults declare nothing.

    Args:
        float_range: Values of floating-point images that are black and white; None refuses such images.
        split: Shares of train, validation and test, as in "80/10/10", by which groups are split, or "none"; None where
            the folder's own splits hold, and 80/10/10 where it has none.
        seed: Seed of the hash that splits groups.
    """

    float_range: tuple[float, float] | None = None
    split: str | None = None
    seed: int = 0

    def given(self) -> list[str]:
        """The command line's names of what is declared."""
        return [f"--{each.name.replace('_', '-')}" for each in fields(self) if getattr(self, each.name) != each.default]
