"""Trained adapters as estimators: load a run, transform features into its joint space."""

from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import nn

from featcache.errors import UsageError
from featcache.features import Features
from featcache.trainer.adapters import Adapters
from featcache.trainer.run import Run, apply, embed_rows, load_run


class Adapter:
    """The adapters of a finished run, in the manner of scikit-learn's transformers.

    Args:
        run: From `load_run`; `load` opens it by its folder.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def __repr__(self) -> str:
        return f"Adapter({self.run.path}: {', '.join(self.sides)})"

    @cached_property
    def _adapters(self) -> Adapters:
        """The run's, read once."""
        return self.run.adapters()

    @classmethod
    def load(cls, run: Path | str) -> "Adapter":
        """Opens a run folder and checks its files.

        Args:
            run: The folder that `featcache train` wrote.

        Raises:
            RunMissing, RunDamaged: As `load_run`.
        """
        return cls(load_run(Path(run)))

    @property
    def sides(self) -> list[str]:
        """Names of the sides that adapters were trained for."""
        return self.run.sides

    def transform(
        self, x: "Features | Float[np.ndarray, 'n d']", *, side: str | None = None
    ) -> Float[np.ndarray, "n width"]:
        """Rows in the joint space, of length 1, float32.

        Args:
            x: Features of an encoder and layer that a side was trained on, of any data set; or an array of such rows.
            side: Which side; needed for an array, and where several sides are of one encoder and layer.

        Raises:
            UsageError: If the side is not told, or the width is another than it was trained on.
        """
        if isinstance(x, Features):
            return apply(self.run, x, side=side, adapters=self._adapters)
        if side is None or side not in self.sides:
            raise UsageError(f"an array does not say which side it is of: side= one of {', '.join(self.sides)}")
        width = len(self._adapters[side].mean)
        if x.ndim != 2 or x.shape[1] != width:
            raise UsageError(f"rows of shape {list(x.shape)}: side {side} was trained on [n, {width}]")
        return embed_rows(self._adapters, side, x)

    def module(self, side: str) -> nn.Module:
        """A side's adapter as a plain module of the caller's: [n, d] to [n, width], standardised within, any length."""
        if side not in self.sides:
            raise UsageError(f"no side {side!r}; there are {', '.join(self.sides)}")
        return self.run.adapters()[side]
