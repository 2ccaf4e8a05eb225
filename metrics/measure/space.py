"""Named spaces of the same samples: rows, neighbour graphs and prepared kernels, each made once."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard, cast

import numpy as np
import torch

from featcache.metrics.arrays import Groups, X, checked, labels, unit_rows
from featcache.metrics.certainty.inputs import prepare_all, refuse_constant
from featcache.metrics.comparison import Comparison, KnnComparison
from featcache.metrics.errors import BadChoice
from featcache.metrics.knn.exact import Measure
from featcache.metrics.knn.graph import Neighbors, neighbors
from featcache.metrics.scores.local import Cknna


class Space(ABC):
    """One space of a comparison; row i of all spaces that are compared is the same sample."""

    name: str  # what rows and messages call it
    n: int
    groups: tuple[Any, ...] | None  # of each row, where several rows show one thing
    origins: dict[str, str]  # where the graph of each measure ("cosine", "ip", "euclidean") came from, so far

    @property
    @abstractmethod
    def values(self) -> X:
        """The rows, [n, d]."""

    @property
    def width(self) -> int:
        """Columns d."""
        return self.values.shape[1]

    @abstractmethod
    def graph(self, k: int, metric: Measure = "cosine", *, similarities: bool = False) -> Neighbors:
        """The neighbour graph, at least k deep; kept, and searched again only to go deeper.

        Args:
            k: Neighbours per row.
            metric: "cosine", "ip" or "euclidean".
            similarities: Whether similarities are needed too, of which a cache may keep none.
        """

    def unit(self) -> "Space":
        """The same rows, each of length 1."""
        return _UnitSpace(self)

    def prepared(self, comparison: Comparison[Any], depth: int = 0) -> Any:
        """What a metric compares: the graph where it looks at nothing else, else the space as the metric prepares it.

        Args:
            comparison: The metric at its options.
            depth: Neighbours wanted beyond the metric's own k, so that subsets keep enough.

        Raises:
            MetricError: If the space does not suit the metric; names the space.
        """
        if not compares_graphs(comparison):
            return prepare_all(comparison, {self.name: self.values})[0][0]
        similarities = isinstance(comparison, Cknna)  # they are its kernel
        graph = self.graph(max(depth, comparison.k), comparison.metric, similarities=similarities)
        return prepare_all(comparison, {self.name: graph})[0][0]


class _KeptSpace(Space):
    """A space that keeps its graphs and prepared kernels from one measurement to the next."""

    def __init__(self, name: str, n: int, groups: tuple[Any, ...] | None) -> None:
        self.name, self.n, self.groups = name, n, groups
        self.origins: dict[str, str] = {}
        self._graphs: dict[str, Neighbors] = {}
        self._prepared: dict[Comparison[Any], Any] = {}

    def graph(self, k: int, metric: Measure = "cosine", *, similarities: bool = False) -> Neighbors:
        """As `Space.graph`."""
        known = self._graphs.get(metric)
        if known is None or known.k < k or (similarities and np.isnan(known.similarities[0, 0])):
            refuse_constant(checked(self.values, self.name), self.name)
            known = neighbors(self.values, k=k, groups=self.groups, metric=metric, name=self.name)
            self._graphs[metric], self.origins[metric] = known, "searched"
        return known

    def prepared(self, comparison: Comparison[Any], depth: int = 0) -> Any:
        """As `Space.prepared`; a prepared kernel is kept for each metric and its options."""
        if compares_graphs(comparison):
            return super().prepared(comparison, depth)
        if comparison not in self._prepared:
            self._prepared[comparison] = super().prepared(comparison)
        return self._prepared[comparison]


class ArraySpace(_KeptSpace):
    """A space whose rows are at hand; graphs and prepared kernels are kept with it from one measurement to the next.

    Args:
        values: Features [n, d].
        name: What rows and messages call it.
        groups: The group of each row, or None; rows of one group are never neighbours.
        graphs: Neighbour graphs that are there already, searched with these groups.

    Example:
        >>> space = ArraySpace(np.random.default_rng(0).standard_normal((40, 8)), "x")
        >>> space.graph(5) is space.graph(3), space.graph(5).k, space.origins
        (True, 5, {'cosine': 'searched'})
    """

    def __init__(self, values: X, name: str, groups: Groups | None = None, graphs: Iterable[Neighbors] = ()) -> None:
        n = len(checked(values, name))
        super().__init__(name, n, None if groups is None else tuple(labels(groups, n, "groups")))
        self._values = values
        self._unit: Space | None = None
        for graph in graphs:
            self._graphs[graph.metric], self.origins[graph.metric] = graph, "given"

    @property
    def values(self) -> X:
        """The rows, as they were given."""
        return self._values

    def unit(self) -> Space:
        """As `Space.unit`; kept as well."""
        if self._unit is None:
            self._unit = super().unit()
        return self._unit


class _UnitSpace(_KeptSpace):
    """The rows of a space at length 1; cosines are those of the space itself, and so are its graphs."""

    def __init__(self, source: Space) -> None:
        super().__init__(source.name, source.n, source.groups)
        self._source = source
        self._values: X | None = None

    @property
    def values(self) -> X:
        """The rows, each of length 1; made when they are first needed."""
        if self._values is None:
            self._values = _unit(self._source.values, self.name)
        return self._values

    @property
    def width(self) -> int:
        """As the source's."""
        return self._source.width

    def graph(self, k: int, metric: Measure = "cosine", *, similarities: bool = False) -> Neighbors:
        """As `Space.graph`."""
        if metric != "cosine":
            return super().graph(k, metric, similarities=similarities)
        made = self._source.graph(k, metric, similarities=similarities)
        self.origins[metric] = self._source.origins[metric]
        return made

    def unit(self) -> Space:
        """Itself."""
        return self


def _unit(values: X, name: str) -> X:
    """Rows of length 1, in the kind and on the device of `values`; float32 unless these are float64."""
    rows = unit_rows(checked(values, name).astype(np.float64), name)
    if isinstance(values, torch.Tensor):
        return torch.from_numpy(rows).to(values.device, torch.promote_types(values.dtype, torch.float32))
    return rows.astype(np.promote_types(values.dtype, np.float32))


def compares_graphs(comparison: Comparison[Any]) -> TypeGuard[KnnComparison | Cknna]:
    """Whether a metric looks at nothing but neighbour graphs.

    Biased CKNNA has every row on its own list, which no graph has.
    """
    return isinstance(comparison, KnnComparison) or (isinstance(comparison, Cknna) and comparison.debiased)


def named_spaces(spaces: Iterable[Space] | Mapping[str, Space | X]) -> dict[str, Space]:
    """Spaces by name; arrays of a mapping become spaces of that name.

    Raises:
        BadChoice: If two spaces have one name.
    """
    if isinstance(spaces, Mapping):
        given = cast(Mapping[str, Space | X], spaces)
        return {name: one if isinstance(one, Space) else ArraySpace(one, name) for name, one in given.items()}
    named: dict[str, Space] = {}
    for space in spaces:
        if space.name in named:
            raise BadChoice(f"two spaces are named {space.name!r}; every space needs a name of its own")
        named[space.name] = space
    return named
