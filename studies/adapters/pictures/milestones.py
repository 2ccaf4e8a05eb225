"""Adapted sides of the test split at the milestones of training, on one plane."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.metrics.errors import MetricError
from featcache.metrics.measure.space import Space
from featcache.studies.adapters.pictures.maps import principal_plane
from featcache.trainer.fit import Fitted
from featcache.trainer.tracking import Embedded, EvaluationSplit, embed_split

if TYPE_CHECKING:
    import polars as pl

STAGE_GROUPS = 300


@dataclass(frozen=True, eq=False)
class Stages:
    """The test split as the adapters of a training map it, at every milestone.

    Args:
        fitted: The training.
        test: The test split.
        embedded: Epoch -> the split embedded, in rising order; the selected epoch is always there.
    """

    fitted: Fitted
    test: EvaluationSplit
    embedded: dict[int, Embedded]

    @property
    def selected(self) -> Embedded:
        """The split embedded by the adapters that were selected."""
        return self.embedded[self.fitted.selected_epoch]

    @property
    def fixed(self) -> dict[str, Space]:
        """The spaces that no training changes: "raw <side>" and, where there is one, "reference"."""
        spaces: dict[str, Space] = {f"raw {name}": space.unit() for name, space in self.test.raw.items()}
        if self.test.reference is not None:
            spaces["reference"] = self.test.reference.unit()
        return spaces

    def adapted(self, epoch: int) -> dict[str, Space]:
        """The sides and "joint", the joint space of all, at a milestone."""
        spaces = self.embedded[epoch].spaces
        return {name: spaces[name].unit() for name in (*self.test.paired.sides, "joint")}

    @property
    def final(self) -> dict[str, Space]:
        """The fixed spaces and the adapted ones of the selected epoch."""
        return self.fixed | self.adapted(self.fitted.selected_epoch)

    def drawn(self, most: int) -> NDArray[np.int64]:
        """So many test groups at most, by number in rising order, drawn with the run's seed; fewer are part of more."""
        rng = np.random.default_rng(self.fitted.config.seed)
        return np.sort(rng.permutation(len(self.test.paired.groups))[:most])


def embed_stages(fitted: Fitted, test: EvaluationSplit) -> Stages:
    """Maps the test split by the adapters of every milestone.

    A milestone whose spaces have no neighbours to compare, as where adapters have collapsed, is left out.
    """
    embedded: dict[int, Embedded] = {}
    for epoch, adapters in ({fitted.selected_epoch: fitted.adapters} | fitted.milestones).items():
        try:
            one = embed_split(test, adapters)
            for name in (*test.paired.sides, "joint"):
                one.spaces[name].graph(fitted.config.k)
        except MetricError:
            if epoch == fitted.selected_epoch:
                raise
            continue
        embedded[epoch] = one
    return Stages(fitted, test, dict(sorted(embedded.items())))


def stage_table(stages: Stages) -> "pl.DataFrame":
    """The first two principal components of the adapted sides, of all sides and milestones together.

    Unit rows, one a group. One basis and one centre for all, so that sides and milestones can be compared. At most 300
    groups.

    Returns:
        Columns id (of the group), label, epoch, space (name of the side), px, py.
    """
    import polars as pl

    drawn, paired = stages.drawn(STAGE_GROUPS), stages.test.paired
    places = [(epoch, side) for epoch in stages.embedded for side in paired.sides]
    rows = [np.asarray(stages.adapted(epoch)[side].values, dtype=np.float64)[drawn] for epoch, side in places]
    points = principal_plane(np.concatenate(rows))
    columns: Mapping[str, Any] = {
        "id": np.tile(paired.groups[drawn], len(places)),
        "label": np.tile(paired.labels[drawn], len(places)),
        "epoch": np.repeat([epoch for epoch, _ in places], len(drawn)),
        "space": np.repeat([side for _, side in places], len(drawn)),
        "px": points[:, 0],
        "py": points[:, 1],
    }
    return pl.DataFrame(columns)
