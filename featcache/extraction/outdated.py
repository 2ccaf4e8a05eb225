"""Features that an extraction leaves behind: of older rows alone, or of views that changed and were not extracted."""

from collections.abc import Sequence
from pathlib import Path

from featcache.cache import Cache
from featcache.data.options import SECONDS
from featcache.data.views import View
from featcache.errors import FeatcacheError
from featcache.extraction.job import Job
from featcache.not_found import extraction_of
from featcache.store.current import CurrentRows
from featcache.store.digest import ArrayKey


def outdated_notes(cache: Cache, jobs: Sequence[Job], *, root: Path | None = None) -> list[str]:
    """What is to be said behind extractions of one data set, each with the command that brings it up to date.

    Args:
        cache: The cache that was extracted into.
        jobs: The extractions, done.
        root: Folder that holds the data set's files, if one was given.
    """
    notes: list[str] = []
    extracted = {job.view.name for job in jobs}
    for dataset in {job.dataset.name: job.dataset for job in jobs}.values():
        for view in dataset.views.values():
            try:
                record = cache.current_rows(dataset.name, view.name)
                if record is not None and (view.name in extracted or _changed(view, record)):
                    keys = _left_behind(cache, dataset.name, view, record if view.name in extracted else None)
                    notes += [_note(key, view, root) for key in keys]
            except FeatcacheError as error:
                notes.append(str(error))
    return notes


def _changed(view: View, record: CurrentRows) -> bool:
    """Whether a view has other rows than those recorded; of images only their number is compared, no file is read."""
    return len(view) != record.n or (view.modality == "text" and view.root != record.root)


def _left_behind(cache: Cache, dataset: str, view: View, record: CurrentRows | None) -> list[ArrayKey]:
    """A key of each encoder of which some layer is complete of other rows alone; None: no rows are the current ones."""
    arrays = [array for array in cache.arrays(dataset, view.name) if not array.name.is_graph]
    keys = [array.key() for array in arrays if array.is_complete]
    current = {(key.encoder, key.layer) for key in keys if record and key.binds["rows"]["root"] == record.root}
    behind: dict[str, ArrayKey] = {}
    for key in keys:
        made_here = not {"from", "imported"} & key.binds["encoder"].keys()
        if made_here and (key.encoder, key.layer) not in current:
            behind.setdefault(key.encoder, key)
    return list(behind.values())


def _note(key: ArrayKey, view: View, root: Path | None) -> str:
    seconds = view.decoding.get("seconds", SECONDS)
    kept = f" --seconds {seconds:g}" if seconds != SECONDS else ""
    return (
        f"{key.dataset}/{key.view}/{key.encoder}, or some of its layers, are there of older rows alone "
        f"({key.binds['rows']['n']:,} then, {len(view):,} now). Run: {extraction_of(key, root)}{kept}"
    )
