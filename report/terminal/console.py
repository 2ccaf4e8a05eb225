"""Tables and JSON on the terminal, and what the cache holds."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from featcache.printing import printable, safe_text

if TYPE_CHECKING:
    from featcache.cache import Cache
    from featcache.entries import Entry
    from featcache.maintenance.verify import Problem


_NUMBER = re.compile(r"([≤<] )?[-+−]?\.?\d|–$")
_TEXT = 24  # columns of a text that is folded
_UNFOLDED = 100_000  # columns where the output is no terminal: whoever reads it by line gets whole lines
_GAP = 2  # columns between two


def print_json(value: Any) -> None:
    """Prints a value as JSON on stdout; where that is not UTF-8, in escapes, so that no name loses a character."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    sys.stdout.write(safe_text(json.dumps(value, indent=1, ensure_ascii=not unicode)) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Prints a plain table; columns whose every cell is a number, or a dash for none, stand to the right.

    Where the console is too narrow, text is folded; where that is not enough, the columns that are left follow as
    further tables behind the first column. A number is never folded.

    Args:
        columns: Headings.
        rows: Cells; everything is printed with str().
        title: Line above.
    """
    if title:
        console().print(title, style="bold")
    cells = [[safe_text(str(cell), one_line=True) for cell in row] for row in rows]
    for number, block in enumerate(_blocks(columns, cells, console().width)):
        if number:
            console().print()
        table = Table(box=None, header_style="bold", pad_edge=False)
        for at in block:
            if _numeric(cells, at):
                table.add_column(columns[at], justify="right", no_wrap=True, min_width=_needed(columns, cells, at))
            else:
                table.add_column(columns[at], overflow="fold")
        for row in cells:
            table.add_row(*(row[at] for at in block))
        console().print(table)


def _numeric(cells: Sequence[Sequence[str]], at: int) -> bool:
    return bool(cells) and all(_NUMBER.match(row[at]) for row in cells)


def _needed(columns: Sequence[str], cells: Sequence[Sequence[str]], at: int) -> int:
    """The width below which a column cannot be read: all of a number, so much of a text."""
    widest = max((len(row[at]) for row in cells), default=0)
    if _numeric(cells, at):
        return max(widest, len(columns[at]))
    return min(max(widest, len(columns[at])), _TEXT)


def _blocks(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Columns of each table, of which as many stand side by side as the width takes; the first opens each."""
    needed = [_needed(columns, cells, at) + _GAP for at in range(len(columns))]
    blocks, used = [[0]], needed[0]
    for at in range(1, len(columns)):
        if len(blocks[-1]) > 1 and used + needed[at] - _GAP > width:
            blocks.append([0])
            used = needed[0]
        blocks[-1].append(at)
        used += needed[at]
    return blocks


def console(*, stderr: bool = False) -> Console:
    """A console; where the output is no terminal nothing is folded, whatever $COLUMNS says.

    What is printed on it is `safe_text`: nothing that others wrote moves the cursor, or is taken for markup.
    """
    to = sys.stderr if stderr else sys.stdout
    made = Console(stderr=stderr, width=None if to.isatty() else _UNFOLDED, highlight=False, markup=False)
    made.push_render_hook(_SafeText())
    return made


class _SafeText(RenderHook):
    """Makes safe what a console is about to render."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        for each in renderables:
            if isinstance(each, Text):  # here, before its lines are broken
                safe = safe_text(each.plain)
                each.plain = each.plain if safe == each.plain else safe
        return [_Printable(each) for each in renderables]


@dataclass(frozen=True)
class _Printable:
    """What is rendered, each piece of its text printable."""

    inner: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.inner, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them.

    Example:
        >>> duration(9.4), duration(400), duration(9000)
        ('9 s', '6.7 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def size(count: int) -> str:
    """Bytes in the largest decimal unit that leaves a number of at least 1.

    Example:
        >>> size(238_187_520), size(12)
        ('238.2 MB', '12 B')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def count(things: Sequence[object] | int, name: str) -> str:
    """How many things there are, in words.

    Example:
        >>> count(["a"], "array"), count(0, "chunk")
        ('1 array', '0 chunks')
    """
    many = things if isinstance(things, int) else len(things)
    return f"{many:,} {name}" + ("" if many == 1 else "s")


# -- the cache --------------------------------------------------------------------------------------------------------


def show_entries(entries: Sequence["Entry"], cache: "Cache", *, as_json: bool) -> None:
    """Lists arrays."""
    show_other_names(entries)
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    if not entries:
        console().print(
            f"No arrays in {cache.folder}. To fill it: featcache demo, featcache extract DATASET ENCODER, or featcache "
            "pull REMOTE"
        )
        return
    rows = [
        (
            f"{entry.dataset}/{entry.view}/{entry.encoder}/{entry.layer}",
            entry.digest[:8],
            entry.n,
            entry.d,
            entry.dtype,
            size(entry.bytes),
            _state(entry),
        )
        for entry in entries
    ]
    print_table(("array", "digest", "n", "d", "dtype", "size", "state"), rows)
    console().print(f"{count(entries, 'array')}, {size(sum(entry.bytes for entry in entries))} in {cache.folder}")


def show_other_names(entries: Sequence["Entry"]) -> None:
    """Names, on stderr, the arrays whose folders have another name than they were made under or renamed to."""
    for entry in entries:
        if entry.other_name:
            name = f"{entry.dataset}/{entry.view}/{entry.encoder}"
            console(stderr=True).print(
                f"Warning: {name}/{entry.layer} was made as {entry.other_name}; its folder was renamed or copied by "
                f"hand, or by featcache 0.1. If the name is right: featcache mv {name} {name}",
                style="yellow",
            )


def _state(entry: "Entry") -> str:
    if entry.damaged:
        return "unreadable: featcache verify"
    state = "complete" if entry.complete else f"{entry.committed} of {entry.chunks} chunks"
    return state + (f", {entry.rows} rows" if entry.rows else "")


def show_keys(keys: Sequence[Mapping[str, Any]], differences: Mapping[str, tuple[Any, Any]], *, as_json: bool) -> None:
    """Shows one array's key, or the fields in which two differ.

    Args:
        keys: One or two contents of key.json, each with "root" beside.
        differences: Field -> (value in the first, value in the second); empty for one key.
        as_json: Print JSON.
    """
    if as_json:
        print_json(keys[0] if len(keys) == 1 else {name: list(pair) for name, pair in differences.items()})
    elif len(keys) == 1:
        console().print_json(data=keys[0])
        decoding = keys[0]["binds"]["rows"].get("decoding", {})
        if decoding.get("decoder") == "pillow" and "orientation" in decoding:
            console().print(
                "Pictures are decoded by docs/images.md; the field `orientation` is bound for old digests' sake."
            )
    elif differences:
        print_table(
            ("field", *(key["digest"][:8] for key in keys)), [(name, *pair) for name, pair in differences.items()]
        )
    else:
        console().print("The two arrays are asked and got alike.")


def show_problems(problems: Sequence["Problem"], entries: Sequence["Entry"], cache: "Cache", *, as_json: bool) -> int:
    """Shows what verification found; returns the exit code.

    Args:
        problems: From `featcache.maintenance.verify.verify`.
        entries: The arrays that are checked.
        cache: The cache.
        as_json: Print JSON.
    """
    arrays = count(entries, "array")
    show_other_names(entries)
    if as_json:
        print_json([asdict(problem) for problem in problems])
    else:
        for problem in problems:
            console().print(f"{problem.where}: {problem.what}")
        incomplete = sum(not entry.complete and not entry.damaged for entry in entries)
        state = "every byte is as recorded" if entries else "nothing to check"
        state = count(problems, "problem") if problems else state
        console().print(
            f"{arrays} in {cache.folder}" + (f" ({incomplete} incomplete)" if incomplete else "") + f": {state}"
        )
        if any("pip install --upgrade" not in problem.what for problem in problems):
            console().print(
                "To mend: featcache repair, with --from another cache that has the arrays, or with the data set's "
                "--root."
            )
    return 1 if problems else 0


# -- extraction -------------------------------------------------------------------------------------------------------
