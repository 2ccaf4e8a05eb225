"""Two spaces mapped into one by contrastive adapters, which have seen pairs of other rows and no labels."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float

from featcache.trainer.config import FitConfig, default_settings, make_config
from featcache.trainer.fit import fit_paired
from featcache.trainer.sides import PairedSides, Side

_EPOCHS = 8  # each followed by a look at validation, by which the best is kept
_NEIGHBOURS = 10  # that are looked at on validation
_RATE = 1e-2  # ten times the default: so few steps would leave adapters near where they were drawn


def adapted_spaces(
    spaces: Sequence[Float[np.ndarray, "n d"]],
    train: Bool[np.ndarray, " n"],
    validation: Bool[np.ndarray, " n"],
    *,
    width: int,
    steps: int,
    seed: int,
) -> list[Float[np.ndarray, "n width"]]:
    """Trains linear adapters by symmetric InfoNCE, as `featcache train` does by default, and maps all rows.

    Args:
        spaces: Two or more, row i of the same sample.
        train: Rows whose pairs are trained on.
        validation: Rows that choose the epoch, by retrieval.
        width: Of the space that is mapped into.
        steps: Of the optimiser.
        seed: Of initial weights and order of rows.

    Returns:
        Rows of length 1, those of training among them.

    Raises:
        TrainingDiverged: As `fit_paired`.
    """
    sides = {f"side{number}": _side(values) for number, values in enumerate(spaces)}
    numbers = [torch.from_numpy(np.flatnonzero(mask)) for mask in (train, validation, ~train & ~validation)]
    names = np.array([f"{row:09d}" for row in range(len(train))])
    splits: dict[str, torch.Tensor] = dict(zip(("train", "validation", "test"), numbers, strict=True))
    paired = PairedSides(sides, None, names, np.full(len(names), ""), splits, {})
    fitted = fit_paired(paired, _config(len(numbers[0]), len(numbers[1]), width, steps, seed))
    with torch.inference_mode():
        return [fitted.adapters.embed(name, side.values).double().numpy() for name, side in sides.items()]


def _config(rows: int, held: int, width: int, steps: int, seed: int) -> FitConfig:
    return make_config(
        width=width,
        epochs=_EPOCHS,
        steps=max(1, steps // _EPOCHS),
        lr=_RATE,
        batch=max(2, min(default_settings()["batch"], rows // 2)),
        k=min(_NEIGHBOURS, held - 1),
        seed=seed,
    )


def _side(values: np.ndarray) -> Side:
    every = torch.arange(len(values))
    rows = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return Side(rows, every, every, torch.ones_like(every))
