"""The packages and modules of the source tree, by the names they import under."""

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def rooms() -> dict[str, Path]:
    """Top packages by import name: featcache itself and the folders beside it."""
    moved = pyproject()["tool"]["setuptools"]["package-dir"]
    return {"featcache": ROOT / "featcache"} | {name: ROOT / folder for name, folder in moved.items()}


def source_files() -> dict[str, Path]:
    """Every module by import name; a package's is its `__init__.py`."""
    files = {}
    for room, folder in rooms().items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            files[".".join((room, *parts)).removesuffix(".__init__")] = path
    return files
