"""A figure: its rows, its drawing and its words, written as SVG, PNG and CSV."""

import csv
import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from featcache.errors import LibraryMissing
from featcache.printing import printable
from featcache.storage.outputs import write_output


def require_renderer() -> None:
    """Refuses to draw where the libraries that draw are not installed.

    Raises:
        UsageError: Names the command that installs them.
    """
    missing = [name for name in ("altair", "vl_convert") if find_spec(name) is None]
    if missing:
        raise LibraryMissing(
            f"figures need {' and '.join(missing)}, not installed here\n  Run: pip install 'featcache[report]'"
        )


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure of the page.

    Args:
        name: File stem.
        title: What it shows.
        caption: The takeaway first, then how to read the marks.
        alt: What a reader who cannot see it needs.
        rows: Tidy data behind every mark; keys that open with "_" are styling and are not written.
        spec: A Vega-Lite specification.
        marks: Words that marks are described by (`aria-label` in the drawing) -> label of the run that they are of; the
            words of two runs differ.
        drawing: An SVG document in place of one drawn from `spec`.
    """

    name: str
    title: str
    caption: str
    alt: str
    rows: list[dict[str, Any]]
    spec: dict[str, Any]
    marks: dict[str, str] = field(default_factory=lambda: {})
    drawing: str = ""

    @cached_property
    def svg(self) -> str:
        """The figure as an SVG document."""
        import vl_convert

        return self.drawing or vl_convert.vegalite_to_svg(self.printable_spec)

    @property
    def printable_spec(self) -> dict[str, Any]:
        """The specification without the control characters at which the renderer ends the process."""
        return _printable(self.spec)

    @cached_property
    def png(self) -> bytes:
        """The figure as PNG at two pixels a unit."""
        import vl_convert

        return vl_convert.svg_to_png(self.svg, scale=2)

    def draw(self, path: Path) -> None:
        """Draws the figure as .svg, else as .png; other names are refused by `check_figure_path` before."""
        write_output(path, self.svg.encode() if path.suffix == ".svg" else self.png)

    def write(self, folder: Path, *, formats: Sequence[str]) -> list[str]:
        """Writes the figure's files.

        Args:
            folder: Where to; must exist.
            formats: Any of "png", "svg".

        Returns:
            The names written, the data last.
        """
        names = [f"{self.name}.{suffix}" for suffix in (*formats, "csv")]
        if "svg" in formats:
            (folder / f"{self.name}.svg").write_text(self.svg, encoding="utf-8")
        if "png" in formats:
            (folder / f"{self.name}.png").write_bytes(self.png)
        with (folder / f"{self.name}.csv").open("w", encoding="utf-8", newline="") as file:
            columns = [key for key in self.rows[0] if not key.startswith("_")]
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        return names


def reworded(figure: Figure, words: Callable[[str], str]) -> Figure:
    """A figure with other words in everything that is read.

    Args:
        figure: Drawn from its specification.
        words: Text -> other text.
    """

    def each(value: Any) -> Any:
        if isinstance(value, str):
            return words(value)
        if isinstance(value, dict):
            return {key: each(one) for key, one in value.items()}
        return [each(one) for one in value] if isinstance(value, list | tuple) else value

    texts = {name: words(getattr(figure, name)) for name in ("title", "caption", "alt")}
    return replace(figure, **texts, rows=each(figure.rows), spec=each(figure.spec))


def _printable(value: Any) -> Any:
    """A specification without the control characters at which the renderer ends the process."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_printable(key): _printable(each) for key, each in value.items()}
    return [_printable(each) for each in value] if isinstance(value, list | tuple) else value


def escape(text: str) -> str:
    r"""Text as it may stand in the page, in an element or an attribute, whatever names are in it.

    Example:
        >>> escape('<b>\x1b&"')
        '&lt;b&gt;\\u001b&amp;&quot;'
    """
    return html.escape(printable(text))


def inline(svg: str, *, name: str, alt: str, runs: Mapping[str, str] | None = None) -> str:
    """Makes an SVG fit to stand in one page with others: own ids, fluid width, short numbers, a text alternative.

    Args:
        svg: A document such as `Figure.svg`.
        name: Prefix of its ids; Vega names clip paths and gradients alike in every drawing.
        alt: The text alternative.
        runs: The words of a mark (its `_tip`) -> the label of its run; such marks are given it as `data-run`, by which
            the table of runs dims and colours them.

    Returns:
        The `<svg>` element.

    Example:
        >>> inline('<svg width="10" height="5" viewBox="0 0 10 5"><g id="a"/></svg>', name="f", alt="A dot")
        '<svg role="img" aria-label="A dot" viewBox="0 0 10 5" style="min-width:8px;max-width:10px"><g id="f-a"/></svg>'
    """
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r'\b(?:d|transform)="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), body)
    body = re.sub(r' (?:role|aria-roledescription)="graphics-[^"]*"| aria-roledescription="[^"]*"', "", body)
    if runs:
        body = _with_runs(body, runs)
    opening = re.search(r"<svg[^>]*>", body)
    box = re.search(r'viewBox="([^"]+)"', body)
    if opening is None or box is None:
        raise ValueError(f"figure {name!r}: the drawing is not an SVG with a viewBox; it opens {svg[:60]!r}")
    width = float(box[1].split()[2])
    head = f'<svg role="img" aria-label="{escape(alt)}" viewBox="{box[1]}"'
    head += f' style="min-width:{width * 0.8:.0f}px;max-width:{width:.0f}px">'
    return head + body[opening.end() :]


def _with_runs(body: str, runs: Mapping[str, str]) -> str:
    labels = {printable(words): label for words, label in runs.items()}

    def marked(match: re.Match[str]) -> str:
        label = labels.get(html.unescape(match[1]))
        return match[0] if label is None else f'{match[0]} data-run="{escape(label)}"'

    return re.sub(r'\baria-label="([^"]*)"', marked, body)


def columns_for(runs: int, *, panels_of_one: int = 1) -> int:
    """Returns how many panels stand side by side: one a run up to three, else two rows or more of three.

    Args:
        runs: Runs compared.
        panels_of_one: Panels that a single run draws.
    """
    return min(3, runs) if runs > 1 else panels_of_one
