"""The headline contrasts of a run: the joint space against its parts, mixtures and controls."""

from collections.abc import Sequence
from typing import Any

from featcache.metrics.measure.contrasts import Contrast
from featcache.trainer.tracking import joint_names

HEADLINE = "headline"


def joint_and_parts(sides: Sequence[str]) -> list[Contrast]:
    """The joint space against the average (H1) and the best (H2) of its parts, raw and adapted: one family."""
    raw, adapted = tuple(f"raw {side}" for side in sides), tuple(f"adapted {side}" for side in sides)
    family: dict[str, Any] = {"family": HEADLINE}
    return [
        Contrast("joint", raw, "average", name="joint − average of raw parts", **family),
        Contrast("joint", raw, "max", name="joint − best raw part", **family),
        Contrast("joint", adapted, "average", name="joint − average of adapted parts", **family),
        Contrast("joint", adapted, "max", name="joint − best adapted part", **family),
    ]


def headline_contrasts(
    sides: Sequence[str], untrained: int, *, mixtures: Sequence[str], control: bool
) -> list[Contrast]:
    """The declared family of a run: what its page and summary judge, corrected together.

    Args:
        sides: Names of the sides.
        untrained: Initialisations that stand for untrained adapters.
        mixtures: Metrics that have a best mixture of raw kernels.
        control: Whether a control is compared as well.
    """
    adapted = [f"adapted {side}" for side in sides]
    family: dict[str, Any] = {"family": HEADLINE}
    contrasts = joint_and_parts(sides)
    for metric in mixtures:
        name = "joint − best mixture of raw kernels"
        contrasts.append(Contrast("joint", (f"mixed {metric}",), name=name, metrics=(metric,), **family))
    for space in ("joint", *adapted):
        parts = tuple(f"untrained {number} {space}" for number in range(untrained))
        contrasts.append(Contrast(space, parts, "average", name=f"{space}: trained − untrained", **family))
    pairs = [name for name in joint_names(sides) if name != "joint"]
    if pairs:
        contrasts.append(Contrast("joint", tuple(pairs), "max", name="joint of all − best joint of a pair", **family))
    if control:
        contrasts.append(Contrast("joint", ("control joint",), name="joint: trained − pairs shuffled", **family))
    return contrasts
