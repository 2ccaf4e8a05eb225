"""One name for two things in the cache: two encoders, two folders; and a name typed where a folder's path is needed."""

from difflib import get_close_matches

from featcache.cache import Cache
from featcache.data.datasets import known_entry
from featcache.data.errors import UnknownDataset
from featcache.data.open import DatasetSource
from featcache.data.views import Dataset
from featcache.errors import FeatcacheError
from featcache.extraction.job import Job
from featcache.not_found import array_label
from featcache.store.digest import differences
from featcache.store.rows import read_rows


def other_encoder_note(cache: Cache, job: Job) -> str:
    """How to tell apart what an extraction will write from another encoder's features of its name; "" for none."""
    key = job.default_target.key
    if job.done:
        return ""
    for array in cache.arrays(key.dataset, key.view, key.encoder, key.layer):
        try:
            other = array.key()
        except FeatcacheError:  # verify names what is damaged
            continue
        fields = {name.partition(".")[0] for name in differences(key.binds["encoder"], other.binds["encoder"])}
        if array.is_complete and fields:
            return (
                f"Caveat: {array_label(key)} of {key.dataset} is cached of another encoder, too, and both stay; they "
                f"differ in {', '.join(sorted(fields))}. This one is @{key.digest[:12]}, the other "
                f"@{other.digest[:12]}. For a name of its own: featcache encoders add ID --name NAME, and extract NAME"
            )
    return ""


def other_folder_note(cache: Cache, dataset: Dataset) -> str:
    """What to do where the cache holds other images under a folder's name, and none of the folder's; "" elsewhere.

    A folder whose images were added to, removed or edited shares some with what was extracted before.
    """
    view = dataset.views.get("images")
    if view is None or not dataset.source.startswith("folder"):
        return ""
    tables: dict[str, dict[str, object]] = {}
    for array in cache.arrays(dataset.name, view.name):
        if not array.name.is_graph:
            try:
                rows = array.key().binds["rows"]
            except FeatcacheError:  # verify names what is damaged
                continue
            tables[rows["root"]] = rows
    if not tables or view.root in tables:
        return ""
    own = set(view.hashes)
    for rows in tables.values():
        try:
            if own & set(read_rows(cache.folder / dataset.name / view.name, rows).hashes):
                return ""
        except FeatcacheError:
            continue
    return (
        f"Caveat: {dataset.name} in {cache.folder} holds other images and none of this folder's. If these are two data "
        f"sets, give this one a name of its own: featcache extract folder:{dataset.name}-2 --root DIR"
    )


def open_source(cache: Cache, source: DatasetSource) -> Dataset:
    """Opens a data set; as `DatasetSource.open`, but that a folder's name in the cache is known as such.

    Raises:
        UnknownDataset: Of the name of a cached folder, or one near to it, says that its path is needed.
    """
    try:
        return source.open()
    except UnknownDataset as error:
        own = sorted({name for array in cache.arrays() if known_entry(name := array.name.dataset) is None})
        near = get_close_matches(source.name, own, n=1)
        if not near:
            raise
        if near[0] == source.name:
            what = f"{source.name} is the cached name of a folder of yours, and its path is not kept"
        else:
            what = f"{str(error).partition(chr(10))[0]}\n  {near[0]} is the cached name of a folder of yours"
        raise UnknownDataset(
            f"{what}: give its path, as in featcache extract ./DIR, or featcache extract folder:{near[0]} --root DIR"
        ) from None
