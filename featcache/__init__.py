"""A cache of the features of frozen encoders: extract once, load anywhere."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.cache import Cache
    from featcache.data.own_rows import make_dataset, make_view
    from featcache.errors import FeatcacheError
    from featcache.features import Features
    from featcache.own import extract
    from featcache.pairs import pair

__version__ = "0.1.0"
__all__ = ["Cache", "FeatcacheError", "Features", "__version__", "extract", "make_dataset", "make_view", "pair"]
_HOMES = {
    "Cache": "featcache.cache",
    "FeatcacheError": "featcache.errors",
    "Features": "featcache.features",
    "extract": "featcache.own",
    "make_dataset": "featcache.data.own_rows",
    "make_view": "featcache.data.own_rows",
    "pair": "featcache.pairs",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import featcache` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'featcache' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
