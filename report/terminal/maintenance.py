"""Upkeep of a cache on the terminal: room taken, leftovers, repair, diagnosis."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.report.terminal.console import console, count, print_json, print_table, size

if TYPE_CHECKING:
    from featcache.cache import Cache
    from featcache.maintenance.doctor import Finding
    from featcache.maintenance.gc import Usage
    from featcache.maintenance.leftovers import Leftover, Leftovers
    from featcache.maintenance.verify import Problem
    from featcache.store.leases import Lease


def show_usage(usages: Sequence["Usage"], cache: "Cache", *, as_json: bool) -> None:
    """Shows what each encoder's arrays take."""
    if as_json:
        print_json([asdict(each) for each in usages])
        return
    rows = [
        (each.path, each.arrays, size(each.features), size(each.records), f"{each.files:,}")
        for each in sorted(usages, key=lambda each: -each.features)
    ]
    if rows:
        print_table(("encoder", "arrays", "features", "records", "files"), rows)
    total = sum(each.features + each.records for each in usages)
    console().print(f"{size(total)} in {cache.folder}")


def show_leftovers(
    left: "Leftovers", cache: "Cache", *, superseded: Sequence["Leftover"], deleted: bool, broken: bool
) -> int:
    """Lists leftovers; those that no writer may hold can go, or are gone. Superseded arrays are only counted.

    Args:
        left: What was found, or deleted.
        cache: The cache.
        superseded: Arrays of older rows.
        deleted: Whether what nobody holds was deleted.
        broken: Whether silent writers counted as ended.

    Returns:
        The exit code.
    """
    _show_rows(left.found, cache)
    _show_silent(left.silent, broken=broken)
    if not left.found:
        console().print(f"Nothing lies about in {cache.root}.")
    else:
        _show_end(left, cache, "--delete", deleted=deleted, broken=broken)
    if superseded:
        total = size(sum(each.bytes for each in superseded))
        console().print(
            f"{count(superseded, 'array')} of older rows, {total}, superseded by current ones, stay. To list them: "
            f"featcache gc --superseded{_cache_option(cache)}"
        )
    return _exit_code(left)


def show_superseded(arrays: "Leftovers", cache: "Cache", *, deleted: bool, broken: bool) -> int:
    """Lists superseded arrays with what supersedes them; those that no writer may hold can go, or are gone.

    Arguments as of `show_leftovers`; returns the exit code.
    """
    _show_rows(arrays.found, cache, named=True)
    _show_silent(arrays.silent, broken=broken)
    if not arrays.found:
        console().print(f"No array in {cache.root} is superseded by one of the current rows.")
    else:
        _show_end(arrays, cache, "--superseded --delete", deleted=deleted, broken=broken)
        if not deleted:
            console().print("Runs that were trained on them can then no longer be embedded.")
    return _exit_code(arrays)


def _exit_code(left: "Leftovers") -> int:
    return 1 if any(each.failed for each in left.found) else 0


def _show_rows(leftovers: Sequence["Leftover"], cache: "Cache", *, named: bool = False) -> None:
    """A table of leftovers; arrays are named as in selectors."""
    paths = [each.path.relative_to(cache.root) for each in leftovers]
    names = [f"{path.parent}@{path.name[:12]}" if named else str(path) for path in paths]
    rows = [
        (name, size(each.bytes), each.what, each.holder or "nobody's")
        for name, each in zip(names, leftovers, strict=True)
    ]
    if rows:
        print_table(("array" if named else "path", "size", "what", "held by"), rows)


def _cache_option(cache: "Cache") -> str:
    """How the same cache is named by the next command; "" where it need not be."""
    from featcache.cache import default_root

    return "" if cache.root == default_root() else f" --cache {shlex.quote(str(cache.root))}"


def _show_end(left: "Leftovers", cache: "Cache", options: str, *, deleted: bool, broken: bool) -> None:
    free = [each for each in left.found if each.holder is None]
    total = size(sum(each.bytes for each in free))
    options += (" --break-lease" if broken and left.silent else "") + _cache_option(cache)
    if deleted:
        console().print(f"Deleted {len(free)} of {len(left.found)}, {total}.")
    else:
        console().print(
            f"{len(free)} of {len(left.found)} can go, {total}. Nothing was deleted; run: featcache gc {options}"
        )


def _show_silent(silent: Sequence["Lease"], *, broken: bool) -> None:
    """Lists the writers of whom nobody here knows whether they still run."""
    if not silent:
        return

    def when(seconds: float) -> str:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")

    rows = [
        (each.owner.host, each.owner.number, each.what, when(each.began), when(each.beat), each.path.name[:8])
        for each in silent
    ]
    print_table(("host", "process", "what", "writes since", "last sign of life", "lease"), rows)
    console().print(
        "These writers cannot be seen from here, and counted as ended (--break-lease)."
        if broken
        else "These writers cannot be seen from here and may be asleep, so what they may have made stays. If none of "
        "them runs any more: featcache gc --break-lease"
    )


def show_step(where: str, what: str) -> str:
    """Shows one step of a repair, and returns it."""
    console().print(f"{where}: {what}")
    return what


def show_repair(left: Sequence["Problem"], cache: "Cache", *, mended: bool) -> int:
    """Shows what is still wrong after a repair; returns the exit code.

    Args:
        left: What is still wrong.
        cache: The cache.
        mended: Whether anything was done.
    """
    for problem in left:
        console().print(f"{problem.where}: still {problem.what}")
    if not mended and not left:
        console().print(f"Every byte in {cache.folder} is as recorded; nothing to mend.")
    elif left:
        console().print(
            "What is left needs --from another cache that has it, or the data set's --root; foreign files are yours to "
            "delete. As a last resort: featcache rm, then extract again."
        )
    else:
        console().print("Mended; every byte is as recorded.")
    return 1 if left else 0


def show_run_files(
    runs: Mapping[Path, list[str] | None], beside: Mapping[Path, Mapping[str, str]], *, as_json: bool
) -> int:
    """Shows which files of run folders are not what was written; returns the exit code.

    Args:
        runs: Run folder -> files that changed; None where nothing was recorded (a run of featcache 0.1).
        beside: Run folder -> what unfinished trainings of that name left beside it, and who makes it.
        as_json: Print JSON.
    """
    if as_json:
        print_json(
            [
                {"run": str(run), "recorded": files is not None, "changed": files or [], "unfinished": beside[run]}
                for run, files in runs.items()
            ]
        )
    for run, files in runs.items() if not as_json else ():
        if files is None:
            console().print(f"{run}: not recorded; featcache 0.1 wrote no manifest. Train again to have one.")
        elif files:
            console().print(f"{run}: {', '.join(files)} changed since it was written. Train again with --overwrite.")
        else:
            console().print(f"{run}: every file is as it was written.")
        for name, who in beside[run].items():
            console().print(f"{run.parent / name}: unfinished; {who}.")
    return 1 if any(runs.values()) else 0


def show_findings(findings: Sequence["Finding"], *, as_json: bool) -> int:
    """Shows what the doctor found; returns the exit code."""
    if as_json:
        print_json([asdict(each) for each in findings])
    else:
        rows = [(each.state, each.what, each.detail, each.remedy) for each in findings]
        print_table(("", "what", "found", "to do"), rows)
        states = {each.state for each in findings}
        last = (
            "Something will fail."
            if "fail" in states
            else "It works, at a cost."
            if "warn" in states
            else "All is well."
        )
        console().print(last)
    return 1 if any(each.state == "fail" for each in findings) else 0
