"""Generators of synthetic modalities by name: the released one, and those that turn one dial of the label."""

from featcache.data.synthetic.generator import Generator
from featcache.data.synthetic.released import Released
from featcache.data.synthetic.variants import DIALS, Planted
from featcache.errors import UsageError

RELEASED = "released"


def open_generator(name: str) -> Generator:
    """The generator of a name, at its defaults.

    Args:
        name: "released", or one of `featcache.data.synthetic.variants.DIALS`.

    Raises:
        UsageError: If there is none; lists what there is.

    Example:
        >>> open_generator("synergy").name, open_generator("released").name
        ('planted_synergy', 'released')
    """
    if name == RELEASED:
        return Released()
    if name not in DIALS:
        raise UsageError(f"no generator {name!r}: there are {RELEASED}, {', '.join(DIALS)}")
    return Planted(name)
