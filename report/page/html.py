"""Pieces of HTML that several parts of the page are made of."""

import base64
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from featcache.report.figures.figure import Figure, escape, inline

# an SVG of thousands of cells weighs more than its picture: above this it stands in the page as PNG
_LARGEST_SVG = 1_000_000
_LARGEST_TABLE = 150  # rows of a figure that stand in the page; all stand in its CSV
_CELL = re.compile(r'<path d="([^"]+)" fill="([^"]+)"/>')
_CELLS = re.compile(r'(<g class="mark-rect[^>]*>)((?:<path d="[^"]+" fill="[^"]+"/>)+)</g>')
NONE = '<span aria-label="not measured">–</span>'


def resource(name: str) -> str:
    """A text file that lies beside this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def bullets(lines: Iterable[str], css: str = "") -> str:
    """A list of texts, or "" for none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{css}">{items}</ul>' if items else ""


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and texts side by side; pairs without a text are left out."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs if text)
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], css: str = "") -> str:
    """A table of texts whose first column names the row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="{css}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def titled(title: str, content: str) -> str:
    """Content below a heading; "" without content."""
    return f"<h3>{escape(title)}</h3>\n{content}" if content else ""


def folded(summary: str, content: str, *, identity: str = "") -> str:
    """Content behind a summary; "" without content."""
    name = f' id="{identity}"' if identity else ""
    return f"<details{name}><summary>{escape(summary)}</summary>\n{content}\n</details>" if content else ""


def figure_html(figure: Figure, folder: Path, formats: Sequence[str], instead: str = "") -> str:
    """A figure with caption, files and its numbers as a table; writes the files.

    Args:
        figure: The figure.
        folder: Where its files go: the page's "figures".
        formats: Files beside the CSV.
        instead: HTML that stands in the place of the drawing.
    """
    names = figure.write(folder, formats=formats)
    if instead:
        return _figure(figure, names, f'<p class="unseen">{escape(figure.alt)}</p>\n{instead}')
    picture = merge_cells(inline(figure.svg, name=figure.name, alt=figure.alt, runs=figure.marks))
    if len(picture) > _LARGEST_SVG:
        data = base64.b64encode(figure.png).decode("ascii")
        style = picture.split('style="', 1)[1].split('"', 1)[0]
        picture = f'<img alt="{escape(figure.alt)}" style="{style}" src="data:image/png;base64,{data}">'
    return _figure(figure, names, f'<div class="scroll" tabindex="0">{picture}</div>')


def _figure(figure: Figure, names: Sequence[str], picture: str) -> str:
    links = " · ".join(f'<a href="figures/{name}">{name.rsplit(".", 1)[1].upper()}</a>' for name in names)
    return (
        f'<figure id="{figure.name}"><h3>{escape(figure.title)}</h3>\n{picture}\n'
        f'<figcaption>{escape(figure.caption)}</figcaption>\n<p class="files">{links}</p>{_numbers(figure)}</figure>'
    )


def merge_cells(svg: str) -> str:
    """Draws the cells of one colour of each heat map, which do not overlap, by one path.

    Example:
        >>> cells = '<path d="M0,0h4v4h-4Z" fill="red"/><path d="M4,0h4v4h-4Z" fill="red"/>'
        >>> merge_cells(f'<g class="mark-rect x">{cells}</g>')
        '<g class="mark-rect x"><path fill="red" d="M0,0h4v4h-4ZM4,0h4v4h-4Z"/></g>'
    """

    def merged(group: re.Match[str]) -> str:
        by_colour: dict[str, list[str]] = {}
        for outline, colour in _CELL.findall(group[2]):
            by_colour.setdefault(colour, []).append(outline)
        paths = "".join(f'<path fill="{colour}" d="{"".join(all_)}"/>' for colour, all_ in by_colour.items())
        return f"{group[1]}{paths}</g>"

    return _CELLS.sub(merged, svg)


def _numbers(figure: Figure) -> str:
    """The rows of a figure, as its CSV has them; of many rows the first, with a word on the rest."""
    columns = [key for key in figure.rows[0] if not key.startswith("_")]
    columns = [key for key in columns if any(row.get(key) not in (None, "") for row in figure.rows)]
    lines = [[_cell(row.get(key)) for key in columns] for row in figure.rows[:_LARGEST_TABLE]]
    more = len(figure.rows) - len(lines)
    note = f'<p class="note">{more:,} more rows stand in figures/{figure.name}.csv.</p>' if more else ""
    return folded("Numbers of this figure", table(columns, lines, css="numbers") + note)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
