"""Search for run folders: whether a folder is one, and which lie below it or beside it."""

import shlex
from pathlib import Path
from typing import Any

from featcache.trainer.errors import RunDamaged, RunMissing
from featcache.trainer.run_files import parsed_config, read_config

_DEPTH = 3  # folders between a folder of runs and a run, as in runs/DATASET/ENCODERS/ADAPTER
_LISTED = 8


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run of ours, damaged or not."""
    # other tools keep a config.json too: only ours names its own hash
    if all((folder / name).is_file() for name in ("adapters.safetensors", "kernels.parquet")):
        return True  # a run whose config.json is damaged
    try:
        return "config_hash" in parsed_config(folder)
    except RunDamaged:
        return False


def find_run(path: Path) -> tuple[dict[str, Any], int]:
    """The configuration of a run folder, its files checked against their manifest, and its format.

    Raises:
        RunMissing: If there is no run; names the runs below it or next to it.
        RunDamaged: If a file is missing, is not what was written, or config.json cannot be read.
    """
    if not is_run(path):
        raise no_run(path)
    return read_config(path)


def runs_below(folder: Path) -> list[Path]:
    """The run folders at most three folders below a folder, sorted; hidden ones, which are unfinished, left out."""
    patterns = ("/".join("*" * depth) for depth in range(1, _DEPTH + 1))
    runs = [path for pattern in patterns for path in folder.glob(pattern) if is_run(path)]
    return sorted(path for path in runs if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def no_run(path: Path) -> RunMissing:
    """The error of a folder that is no run: names the runs below it, else those beside it."""
    below = runs_below(path) if path.is_dir() else []
    if below:
        words = " ".join(shlex.quote(str(each)) for each in below[:_LISTED])
        more = f" (and {len(below) - _LISTED} more)" if len(below) > _LISTED else ""
        what = "1 run lies" if len(below) == 1 else f"{len(below)} runs lie"
        return RunMissing(f"{path} is no run, but {what} below it\n  Name one or several: {words}{more}")
    siblings = ", ".join(each.name for each in runs_below(path.parent) if each.parent == path.parent)
    return RunMissing(f"no run at {path}\n  Runs beside it: {siblings or 'none'}\n  Run: featcache train --help")
