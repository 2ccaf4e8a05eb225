"""Upkeep of a cache on the terminal: room taken, leftovers, repair, diagnosis."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.report.console import console, count, print_json, print_table, size

if TYPE_CHECKING:
    from featcache.cache import Cache
    from featcache.maintenance.doctor import Finding
    from featcache.maintenance.gc import Leftover, Usage
    from featcache.maintenance.verify import Problem


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
    leftovers: Sequence["Leftover"], cache: "Cache", *, superseded: Sequence["Leftover"], deleted: bool
) -> None:
    """Lists leftovers; those that no live writer may hold can go, or are gone. Superseded arrays are only counted."""
    _show_rows(leftovers, cache)
    if not leftovers:
        console().print(f"Nothing lies about in {cache.root}.")
    else:
        _show_end(leftovers, "featcache gc --delete", deleted=deleted)
    if superseded:
        total = size(sum(each.bytes for each in superseded))
        console().print(
            f"{count(superseded, 'array')} of older rows, {total}, superseded by current ones, stay. To list them: "
            "featcache gc --superseded"
        )


def show_superseded(arrays: Sequence["Leftover"], cache: "Cache", *, deleted: bool) -> None:
    """Lists superseded arrays with what supersedes them; those that no live writer may hold can go, or are gone."""
    _show_rows(arrays, cache, named=True)
    if not arrays:
        console().print(f"No array in {cache.root} is superseded by one of the current rows.")
    else:
        _show_end(arrays, "featcache gc --superseded --delete", deleted=deleted)
        if not deleted:
            console().print("Runs that were trained on them can then no longer be embedded.")


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


def _show_end(leftovers: Sequence["Leftover"], command: str, *, deleted: bool) -> None:
    free = [each for each in leftovers if each.holder is None]
    total = size(sum(each.bytes for each in free))
    if deleted:
        console().print(f"Deleted {len(free)} of {len(leftovers)}, {total}.")
    else:
        console().print(f"{len(free)} of {len(leftovers)} can go, {total}. Nothing was deleted; run: {command}")


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


def show_run_files(runs: Mapping[Path, list[str] | None], *, as_json: bool) -> int:
    """Shows which files of run folders are not what was written; returns the exit code.

    Args:
        runs: Run folder -> files that changed; None where nothing was recorded (a run of featcache 0.1).
        as_json: Print JSON.
    """
    if as_json:
        print_json(
            [{"run": str(run), "recorded": files is not None, "changed": files or []} for run, files in runs.items()]
        )
    for run, files in runs.items() if not as_json else ():
        if files is None:
            console().print(f"{run}: not recorded; featcache 0.1 wrote no manifest. Train again to have one.")
        elif files:
            console().print(f"{run}: {', '.join(files)} changed since it was written. Train again with --overwrite.")
        else:
            console().print(f"{run}: every file is as it was written.")
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
