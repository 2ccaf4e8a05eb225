"""Encoders that are compared when the user names none, in the order of preference."""

from typing import NamedTuple

from featcache.cache import Cache
from featcache.errors import FeaturesNotCached, UsageError
from featcache.selectors import check_name, parse_selector


class Triple(NamedTuple):
    """A data set, the encoders of both sides, and the encoder that the joint space is measured against."""

    dataset: str
    x: str
    y: str
    reference: str

    def __str__(self) -> str:
        return f"{self.dataset}: {self.x} + {self.y} against {self.reference}"


DEMO = Triple("openmoji", "efficientnet-lite0", "minilm", "efficientnet-lite2")
DEFAULTS = (
    Triple("flickr30k", "resnet18", "gpt2", "dinov2-small"),
    Triple("flickr30k", "efficientnet-lite0", "minilm", "efficientnet-lite2"),
    DEMO,
)


def choose_triple(
    cache: Cache,
    dataset: str | None = None,
    x: str | None = None,
    y: str | None = None,
    reference: str | None = None,
) -> Triple:
    """Fills what the user left open: the first of DEFAULTS that fits and is cached, else the last that fits.

    Args:
        cache: Where features are looked for.
        dataset: Data set, or None.
        x: Selector of one side, or None.
        y: Selector of the other side, or None.
        reference: Selector of the reference, or None.

    Raises:
        UsageError: If something is left open and no default fits.
        Ambiguous, Damaged: If features of a default that fits are there but cannot be taken.
    """
    if dataset and x and y and reference:
        return Triple(dataset, x, y, reference)
    fitting = [
        Triple(d.dataset, x or d.x, y or d.y, reference or d.reference)
        for d in DEFAULTS
        if dataset in (None, d.dataset)
    ]
    if not fitting:
        known = ", ".join(dict.fromkeys(d.dataset for d in DEFAULTS))
        options = {"--x": x, "--y": y, "--reference": reference}
        missing = ", ".join(name for name, value in options.items() if not value)
        raise UsageError(f"{dataset} has no default encoders (only {known} have)\n  Name them: {missing}")
    return next((triple for triple in fitting if _is_cached(cache, triple)), fitting[-1])


def _is_cached(cache: Cache, triple: Triple) -> bool:
    try:
        for selector in triple[1:]:
            cache.find(triple.dataset, selector)
    except FeaturesNotCached:
        return False
    return True


def run_folder(triple: Triple, adapter: str, seed: int) -> str:
    """Where a run goes when the user names no folder.

    Example:
        >>> run_folder(DEMO, "mlp", 1)
        'runs/openmoji/efficientnet-lite0+minilm--efficientnet-lite2/mlp-s1'
    """
    x, y, reference = (str(parse_selector(name)).replace("/", ".").replace("@", "+") for name in triple[1:])
    return f"runs/{check_name(triple.dataset, 'a data set')}/{x}+{y}--{reference}/{adapter}-s{seed}"
