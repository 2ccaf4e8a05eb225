"""GitHub-flavoured Markdown of texts that are anybody's: whatever a name holds, it stays text."""

import re
from collections.abc import Sequence
from urllib.parse import quote

from featcache.printing import printable

# markup; an address, a person or a mail, unless it is "R@10"; an emoji code
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!&~$^]|@(?!\d+(?![\w.]))|:(?=//|[\w+-]+:))")
_NUMBER = re.compile(r"([<≤] )?[-+−]?\.?\d+[\d.,]*( \[.*\])?$|\[[-+−.\d]|–?$")
_OPENING = re.compile(r"^\s*(?=(?:[-+=]|\d+[.)]))")  # of a list or an underline, at the start of a line
_ADDRESS = re.compile(r"(?i)\bwww\.")  # is made a link by itself


def text(value: object) -> str:
    r"""Text as it may stand in a line or a cell: nothing in it is markup, HTML, a link, an emoji code or a formula.

    Example:
        >>> text("a|b<script>"), text("[−.206, −.128], p < .001"), text("x\n# y")
        ('a\\|b\\<script\\>', '\\[−.206, −.128\\], p \\< .001', 'x\\\\n\\# y')
    """
    escaped = _SPECIAL.sub(r"\\\1", printable(str(value), one_line=True))
    return _ADDRESS.sub(lambda match: f"{match[0][:-1]}\\.", escaped)


def paragraph(value: object) -> str:
    r"""Text that opens a line, and no list.

    Example:
        >>> paragraph("1. above"), paragraph("    - x")
        ('1\\. above', '\\- x')
    """
    line = _OPENING.sub("", text(value)).strip()
    line = re.sub(r"^(\d+)([.)])", r"\1\\\2", line)
    return re.sub(r"^([-+=])", r"\\\1", line)


def table(columns: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    r"""A table; a column whose every cell is a number or an interval stands to the right.

    Example:
        >>> print(table(("space", "score"), [("a|b", ".5")]))
        | space | score |
        |---|--:|
        | a\|b | .5 |
    """
    lines = [f"| {' | '.join(text(cell) for cell in row)} |" for row in (columns, *rows)]
    numeric = [bool(rows) and all(_NUMBER.match(str(row[at])) for row in rows) for at in range(len(columns))]
    rule = "|" + "".join("--:|" if right else "---|" for right in numeric)
    return "\n".join([lines[0], rule, *lines[1:]])


def code(lines: Sequence[str], language: str = "") -> str:
    """Lines of code, fenced by more backticks than stand in them."""
    body = "\n".join(printable(line, one_line=True) for line in lines)
    fence = "`" * max(3, 1 + max((len(ticks) for ticks in re.findall("`+", body)), default=0))
    return f"{fence}{language}\n{body}\n{fence}"


def picture(title: str, path: str) -> str:
    """A picture by its path, with its title as the alternative.

    Example:
        >>> picture("A figure", "figures/a b(1).svg")
        '![A figure](figures/a%20b%281%29.svg)'
    """
    return f"![{text(title)}]({quote(printable(path, one_line=True), safe='/._-~')})"
