"""What a user declares of a folder of images when it is opened."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class OpenOptions:
    """Declarations about a folder of the user's; the defaults declare nothing.

    Args:
        float_range: Values of floating-point images that are black and white; None refuses such images.
    """

    float_range: tuple[float, float] | None = None

    def given(self) -> list[str]:
        """The command line's names of what is declared."""
        return [f"--{each.name.replace('_', '-')}" for each in fields(self) if getattr(self, each.name) != each.default]
