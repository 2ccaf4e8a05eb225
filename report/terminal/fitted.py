"""Lines and tables that fit a narrow terminal without a break inside a part; piped, everything is whole."""

from collections.abc import Sequence

from featcache.printing import safe_text
from featcache.report.names import shorten
from featcache.report.terminal.console import console, print_table

_LEAST = 8  # characters that a shortened name keeps
_GAP = 2


def print_fitting(texts: Sequence[str], *, style: str | None = None) -> None:
    """Prints the first of some texts that fits in one line, else the last."""
    width = console().width
    console().print(next((text for text in texts if len(text) <= width), texts[-1]), style=style)


def print_parts(parts: Sequence[str], *, style: str | None = None) -> None:
    """Prints parts side by side; one that does not fit any more opens a line, a little indented.

    Args:
        parts: Texts, each with its own punctuation.
        style: Of all.
    """
    width, lines = console().width, [""]
    for part in filter(None, parts):
        line = f"{lines[-1]} {part}" if lines[-1].strip() else lines[-1] + part
        if len(line) > width and lines[-1].strip():
            lines.append(f"  {part}")
        else:
            lines[-1] = line
    for line in lines:
        console().print(line, style=style)


def print_path(before: str, path: str) -> None:
    """Prints a path behind some words, whole: where it does not fit, behind a backslash, as a shell reads it."""
    if len(before) + 1 + len(path) <= console().width:
        console().print(f"{before} {path}")
    else:
        console().print(f"{before} \\")
        console().print(f"  {path}", soft_wrap=True)


def print_fitted_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: Sequence[str] = (),
    names: Sequence[int] = (0,),
    alike: Sequence[int] = (),
) -> None:
    """Prints a table; where the console is too narrow, columns give way and names are shortened in their middle.

    Args:
        columns: Headings.
        rows: Cells; everything is printed with str().
        title: Parts of the line above.
        names: Columns whose texts may be shortened.
        alike: Columns that may move into the title where all their cells are equal; the first give way first.
    """
    cells = [[safe_text(str(cell), one_line=True) for cell in row] for row in rows]
    kept, parts, width = list(range(len(columns))), list(title), console().width
    for at in alike:
        values = {row[at] for row in cells}
        if _width(columns, cells, kept) > width and len(values) == 1 and len(kept) > 1:
            kept.remove(at)
            parts.append(f"{columns[at]} {values.pop()},")
    if parts:
        print_parts([*parts[:-1], parts[-1].removesuffix(",")], style="bold")
    excess = _width(columns, cells, kept) - width
    for at in sorted(set(names) & set(kept), key=lambda at: -_widest(columns, cells, at)):
        if excess > 0:
            before = _widest(columns, cells, at)
            longest = max(before - excess, _LEAST, len(columns[at]))
            for row in cells:
                row[at] = shorten(row[at], longest)
            excess -= before - _widest(columns, cells, at)
    print_table([columns[at] for at in kept], [[row[at] for at in kept] for row in cells])


def _width(columns: Sequence[str], cells: Sequence[Sequence[str]], kept: Sequence[int]) -> int:
    return sum(_widest(columns, cells, at) + _GAP for at in kept) - _GAP


def _widest(columns: Sequence[str], cells: Sequence[Sequence[str]], at: int) -> int:
    return max([len(columns[at]), *(len(row[at]) for row in cells)])
