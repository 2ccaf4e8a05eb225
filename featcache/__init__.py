"""A cache of the features of frozen encoders: extract once, load anywhere."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.cache import Cache
    from featcache.errors import FeatcacheError
    from featcache.features import Features

__version__ = "0.1.0"
__all__ = ["Cache", "FeatcacheError", "Features", "__version__"]
_HOMES = {"Cache": "featcache.cache", "FeatcacheError": "featcache.errors", "Features": "featcache.features"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import featcache` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'featcache' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
