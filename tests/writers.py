"""Writers of other hosts, as far as their leases show them."""

import json
import os
from pathlib import Path

from featcache.store.leases import FOLDER

NOTE = f"{9:032x}"


def strange_writer(root: Path, began: float | None = None, *, beat: float | None = None, what: str = "push") -> Path:
    """The lease of a writer on another host, who began now or at a time, with a sign of life now or at a time."""
    note = root / FOLDER / NOTE
    note.parent.mkdir(parents=True, exist_ok=True)
    began = now(root) if began is None else began
    note.write_text(json.dumps({"host": "lab2", "process": 4, "namespace": "pid:[9]", "what": what, "began": began}))
    if beat is not None:
        os.utime(note, (beat, beat))
    return note


def now(root: Path) -> float:
    """The file system's clock."""
    (root / "clock").touch()
    return (root / "clock").stat().st_mtime
