"""Right answers of retrieval: the gallery rows of a query's group, and those of the same content as one of them."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from featcache.metrics.arrays import Groups, group_codes, labels
from featcache.metrics.knn.exclusion import Exclusion

UNKNOWN = ""


@dataclass(frozen=True, eq=False)
class Answers:
    """The gallery rows that are right for each query: those of its set.

    Kept as sets of contents and rows of contents, since a text that ten thousand rows share would need their square.
    """

    sets: np.ndarray  # [q] set of each query
    contents: np.ndarray  # content numbers of every set, one set after the other
    starts: np.ndarray  # [sets + 1] where each set's contents begin
    rows: Exclusion  # gallery rows by content number

    @property
    def sizes(self) -> np.ndarray:
        """Right gallery rows of each set, [sets]."""
        counts = np.concatenate([[0], np.cumsum(self.rows.sizes[self.contents])])
        return counts[self.starts[1:]] - counts[self.starts[:-1]]

    def members(self, sets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(position in `sets`, gallery row) of every right row of each set, positions in rising order."""
        counts = np.diff(self.starts)[sets]
        position = np.repeat(np.arange(len(sets)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        part, rows = self.rows.members(self.contents[self.starts[sets][position] + within])
        return position[part], rows


def right_answers(
    query_groups: Groups, gallery_groups: Groups, query_contents: Iterable[str], gallery_contents: Iterable[str]
) -> Answers | None:
    """The right answers where rows of several groups may have the same content, for `retrieval`.

    Nobody can tell two groups apart whose query is the same text, nor two gallery rows of the same text. So a row is
    right if its content is that of a gallery row of any group in which the query's content stands; its own group is
    one of these.

    Args:
        query_groups: The group of each query.
        gallery_groups: The group of each gallery row.
        query_contents: Content hash of each query, "" where unknown: then it is like no other.
        gallery_contents: Content hash of each gallery row.

    Returns:
        None where no content stands in two groups: the rows of the query's group are all there is.

    Example:
        >>> answers = right_answers("abc", "abc", ["1", "2", "3"], ["a photo", "a dog", "a photo"])
        >>> [answers.members(answers.sets[[query]])[1].tolist() for query in range(3)]
        [[0, 2], [1], [0, 2]]
    """
    names = labels(query_groups, len([*query_groups]), "query_groups")
    q, both = len(names), [*names, *labels(gallery_groups, len([*gallery_groups]), "gallery_groups")]
    groups = group_codes(both, len(both))[0]
    contents, gallery = _numbered(query_contents), _numbered(gallery_contents)
    wanted, holding = _pairs(contents, groups[:q]), _pairs(groups[q:], gallery)
    if len(wanted) == len(np.unique(contents)) and len(holding) == len(np.unique(gallery)):
        return None
    by_group = Exclusion(holding[:, 0], int(groups.max()) + 1)
    position, pairs = by_group.members(wanted[:, 1])
    right = _pairs(wanted[position, 0], holding[pairs, 1])
    starts = np.searchsorted(right[:, 0], np.arange(int(contents.max()) + 2))
    return Answers(contents, right[:, 1], starts, Exclusion(gallery))


def _numbered(contents: Iterable[str]) -> np.ndarray:
    """A number for each content, in the order of first appearance; each unknown one has its own."""
    numbers: dict[Hashable, int] = {}
    keys = (row if content == UNKNOWN else content for row, content in enumerate(contents))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _pairs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The distinct pairs of two columns, sorted, [pairs, 2]."""
    width = int(right.max()) + 1
    keys = np.unique(left * width + right)
    return np.stack([keys // width, keys % width], axis=1)
