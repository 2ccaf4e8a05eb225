"""Provenance of a measurement: library versions, this project's commit, and the time."""

import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("featcache", "numpy", "torch", "numba")


def provenance() -> dict[str, str]:
    """Versions of the libraries that decide numbers, this project's commit ("" if unknown), and the time."""
    versions = {name: library_version(name) for name in LIBRARIES}
    installed = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"versions": installed, "commit": commit() or "", "measured": now}


def library_version(library: str) -> str | None:
    """Version of an installed library; None if it is not installed (run from a source tree)."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """This project's commit; None where it is an installed copy, which may lie inside some other repository."""
    project = Path(__file__).resolve().parents[1]
    if not (project / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(project), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
