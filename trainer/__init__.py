"""Adapters, their training on cached features, and run folders."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.trainer.config import FitConfig
    from featcache.trainer.defaults import DEFAULTS, Selection
    from featcache.trainer.fit import Epoch, Fitted
    from featcache.trainer.run import Run, apply, load_run
    from featcache.trainer.transform import Adapter

# `fit` itself is trainer.fit.fit: exported here, it would clash with its own module
_HOME = {
    "Adapter": "transform",
    "FitConfig": "config",
    "DEFAULTS": "defaults",
    "Selection": "defaults",
    "Epoch": "fit",
    "Fitted": "fit",
    "Run": "run",
    "apply": "run",
    "load_run": "run",
}

__all__ = ["DEFAULTS", "Adapter", "Epoch", "FitConfig", "Fitted", "Run", "Selection", "apply", "load_run"]


def __getattr__(name: str) -> Any:
    # imported when first asked for: `import trainer` alone must not import torch
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"featcache.trainer.{_HOME[name]}"), name)
