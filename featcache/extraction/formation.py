"""Formation of batches: which rows of a chunk run through the encoder together, and which are encoded already."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from featcache.store.layout import Layout


@dataclass(frozen=True)
class Formation:
    """The rows of one chunk that the encoder gives.

    Batches form inside a part, so that whoever encodes a chunk forms the same ones; a batch whose every row is done is
    left out whole, so that the others stay as they are.
    """

    parts: tuple[Sequence[int], ...]  # row numbers, each part ascending; the rows that are copied are in none
    done: frozenset[int] = frozenset()  # rows whose features are there already

    @property
    def rows(self) -> list[int]:
        """The rows that are left to encode, ascending."""
        return sorted(row for part in self.parts for row in part if row not in self.done)

    def left(self, batches: Iterable[list[int]]) -> list[list[int]]:
        """The batches, given as row numbers, of which some row is left."""
        return [batch for batch in batches if not self.done.issuperset(batch)]


FormationOf = Callable[[int], Formation]  # of each chunk


def whole_chunks(layout: Layout) -> FormationOf:
    """Every chunk in one part, of which nothing is done."""
    return lambda chunk: Formation((range(*layout.span(chunk)),))


def cut(rows: Sequence[int], size: int) -> list[list[int]]:
    """Rows in slices of one size, the last of which may be shorter.

    Example:
        >>> cut(range(5), 2)
        [[0, 1], [2, 3], [4]]
    """
    return [list(rows[low : low + size]) for low in range(0, len(rows), size)]


def row_batches(
    layout: Layout, chunks: Iterable[int], formation_of: FormationOf
) -> Iterator[tuple[int, list[int], bool]]:
    """(chunk, row numbers, whether the last of its chunk) of every batch in row order; an empty one where none is left.

    Example:
        >>> layout = Layout(n=5, chunk_rows=3, batch_size=2, order="row", threads=1)
        >>> list(row_batches(layout, range(2), whole_chunks(layout)))
        [(0, [0, 1], False), (0, [2], True), (1, [3, 4], True)]
        >>> list(row_batches(layout, [1], lambda chunk: Formation(())))
        [(1, [], True)]
    """
    for chunk in chunks:
        formation = formation_of(chunk)
        batches = formation.left(batch for part in formation.parts for batch in cut(part, layout.batch_size)) or [[]]
        for number, batch in enumerate(batches, 1):
            yield chunk, batch, number == len(batches)
