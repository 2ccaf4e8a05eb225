"""Two folders of one name: whether what the cache holds under a data set's name is another data set."""

from featcache.cache import Cache
from featcache.data.views import Dataset
from featcache.errors import FeatcacheError
from featcache.store.rows import read_rows


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
