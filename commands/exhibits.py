"""Captions and thumbnails for the page of several runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featcache.report.runs import RunResults
    from featcache.studies.exhibits import Exhibits


def headline_exhibits(
    runs: "Sequence[RunResults]",
    *,
    texts: bool | None = None,
    thumbnails: bool | None = None,
    root: Path | None = None,
    cache: str | None = None,
) -> "Exhibits":
    """Captions and thumbnails for the page of runs: those of the headline run, if any; errors as `load_exhibits`."""
    from featcache.report.seeds import headline_run, pool_seeds
    from featcache.studies.exhibits import Exhibits, load_exhibits
    from featcache.trainer.run import load_run

    if not runs:
        return Exhibits()
    first, _ = headline_run(pool_seeds(runs))
    return load_exhibits(load_run(first.path), texts=texts, thumbnails=thumbnails, root=root, cache=cache)
