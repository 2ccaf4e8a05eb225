"""How does the terminal show what the cache takes, what lies about in it, and what was mended?"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from featcache.report.console import console, print_json, print_table, size

if TYPE_CHECKING:
    from featcache.cache import Cache
    from featcache.maintenance.doctor import Finding
    from featcache.maintenance.gc import Leftover, Usage
    from featcache.maintenance.verify import Problem


def show_usage(found: Sequence["Usage"], cache: "Cache", *, as_json: bool) -> None:
    """Shows what each encoder's arrays take."""
    if as_json:
        print_json([asdict(each) for each in found])
        return
    rows = [
        (each.path, each.arrays, size(each.features), size(each.records), f"{each.files:,}")
        for each in sorted(found, key=lambda each: -each.features)
    ]
    if rows:
        print_table(("encoder", "arrays", "features", "records", "files"), rows)
    total = sum(each.features + each.records for each in found)
    console().print(f"{size(total)} in {cache.folder}")


def show_leftovers(found: Sequence["Leftover"], cache: "Cache", *, delete: bool) -> None:
    """Lists leftovers, and deletes those that no live writer may hold."""
    from featcache.maintenance.gc import discard

    free = [each for each in found if each.holder is None]
    rows = [
        (each.path.relative_to(cache.root), size(each.bytes), each.what, each.holder or "nobody's") for each in found
    ]
    if rows:
        print_table(("path", "size", "what", "held by"), rows)
    for each in free if delete else ():
        discard(each)
    total = size(sum(each.bytes for each in free))
    if not found:
        console().print(f"Nothing lies about in {cache.root}.")
    elif delete:
        console().print(f"Deleted {len(free)} of {len(found)}, {total}.")
    else:
        console().print(f"{len(free)} of {len(found)} can go, {total}. Nothing was deleted; run: featcache gc --delete")


def show_repair(mend: Callable[[Callable[[str, str], None]], list["Problem"]], cache: "Cache") -> int:
    """Mends under a spinner, says each step, and what is left; returns the exit code.

    Args:
        mend: Function to call with a function of (array, what was done); returns what is still wrong.
        cache: The cache.
    """
    done: list[str] = []

    def say(where: str, what: str) -> None:
        done.append(what)
        console().print(f"{where}: {what}")

    with console(stderr=True).status(f"looking for damage in {cache.folder}"):
        left = mend(say)
    for problem in left:
        console().print(f"{problem.where}: still {problem.what}")
    if not done and not left:
        console().print(f"Every byte in {cache.folder} is as recorded; nothing to mend.")
    elif left:
        console().print(
            "What is left needs --from another cache that has it, or the data set's --root; foreign files are yours to "
            "delete. As a last resort: featcache rm, then extract again."
        )
    else:
        console().print("Mended; every byte is as recorded.")
    return 1 if left else 0


def show_findings(found: Sequence["Finding"], *, as_json: bool) -> int:
    """Shows what the doctor found; returns the exit code."""
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        rows = [(each.state, each.what, each.detail, each.remedy) for each in found]
        print_table(("", "what", "found", "to do"), rows)
        states = {each.state for each in found}
        last = (
            "Something will fail."
            if "fail" in states
            else "It works, at a cost."
            if "warn" in states
            else "All is well."
        )
        console().print(last)
    return 1 if any(each.state == "fail" for each in found) else 0
