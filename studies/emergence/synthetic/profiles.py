"""Sizes of the study of encoders trained apart: quick, standard, paper."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from featcache.trainer.ensembles.flat import Rates
from featcache.trainer.ensembles.mlp import Activation

ProfileName = Literal["quick", "standard", "paper"]

# by the number of unique bits; chosen by the authors on validation rows, as released
_FIRST = {0: (0.001, 1e-4), 1: (0.005, 0.1), 2: (0.005, 0.1), 3: (0.01, 0.001), 4: (0.005, 0.1), 5: (0.01, 0.001)} | {
    6: (0.005, 0.1), 7: (0.001, 1e-4), 8: (0.005, 0.1)
}  # fmt: skip
_SECOND = {3: (0.01, 1e-4)}
CLIP = 8.0
BATCH = 512
REFERENCE_DEPTH = 1  # hidden layers of the encoders of the first modality that all others are compared with
BASE_SEEDS = (2, 22, 42, 62, 82)  # 2, 22 and 42 are the released ones


@dataclass(frozen=True)
class Profile:
    """What is trained.

    Args:
        phi_depths: Maps of the second modality.
        depths: Hidden layers of the encoders of the second modality.
        seeds: Base seeds; an encoder's is base + depth of the map + its own depth.
        steps1: Of the optimiser, for encoders of the first modality.
        steps2: For those of the second.
        width: Of the hidden layers.
        activation: Of the hidden layers.
    """

    phi_depths: tuple[int, ...]
    depths: tuple[int, ...]
    seeds: tuple[int, ...]
    steps1: int = 4_500  # 50 epochs of 90 steps
    steps2: int = 27_000  # 300 epochs
    width: int = 12
    activation: Activation = "leaky_relu"


_ALL = tuple(range(1, 11))
PROFILES: dict[ProfileName, Profile] = {
    "quick": Profile((1, 4, 7, 10), (1, 3, 6, 10), BASE_SEEDS[:1], steps2=6_000),
    "standard": Profile(_ALL, _ALL, BASE_SEEDS[:1]),
    "paper": Profile(_ALL, _ALL, BASE_SEEDS),
}


def sized(name: ProfileName, width: int, activation: Activation) -> Profile:
    """A profile with another width or activation of the hidden layers."""
    return replace(PROFILES[name], width=width, activation=activation)


def study_folder(below: Path, name: ProfileName, generator: str, profile: Profile) -> Path:
    """The folder of a profile's tables: one for each generator, width and activation.

    Example:
        >>> study_folder(Path("synthetic"), "quick", "synergy", sized("quick", 24, "leaky_relu")).as_posix()
        'synthetic/quick-synergy-width24'
    """
    usual, changed = PROFILES[name], list[str]()
    changed += [generator] if generator != "released" else []
    changed += [f"width{profile.width}"] if profile.width != usual.width else []
    changed += [profile.activation] if profile.activation != usual.activation else []
    return below / "-".join([name, *changed])


def released_rates(modality: int, uniqueness: int) -> Rates:
    """Learning rate and weight decay of an encoder of one modality, as released for each U.

    Source:
        The hyper-parameter files of multimodal_alignment at 20f2286 (Tjandrasuwita et al. 2025).
    """
    rates = _FIRST.get(uniqueness, (0.005, 0.1)) if modality == 0 else _SECOND.get(uniqueness, (0.01, 0.0))
    return Rates(*rates, CLIP)
