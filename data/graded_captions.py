"""Captions of WIT in eleven grades: the original, and ten forms that a language model wrote ever farther from it.

The file is `data.json` as released with the vision-language experiments of arXiv:2502.16282 (git 15f606f): a list of
objects {"Index - i": {"sentences": {"Caption j - 10j%": text}, "similarities": [ten numbers]}}, i in order. Caption 0
is that of WIT, and `similarities` are the cosines that the release recorded of each form with it, by a model that its
code names paraphrase-MiniLM-L6-v2. Rows have the ids and groups of wit_1024, so that its photos, where they lie beside
the file, are one more view.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from featcache.data.errors import DataInvalid, DataMissing
from featcache.data.texts import text_view
from featcache.data.views import Dataset, Overlay, View

NAME = "wit_graded"
FILE = "data.json"
GRADES = tuple(range(0, 110, 10))  # percent of a caption's content that was to change
LICENCE = "no licence stated; the captions derive from Wikipedia by way of WIT (CC BY-SA 3.0)"
WAYS = (
    "--root DIR with data.json: the folder perturbed/ of https://github.com/MeganTj/platonic-rep-unique",
    "for the photos, DIR/data/*.parquet or DIR/*.parquet too: the Hub repository minhuh/prh, revision wit_1024",
)
_MOST_BYTES = 128 * 2**20


@dataclass(frozen=True, eq=False)
class GradedCaptions:
    """The file, read.

    Args:
        texts: Grade -> a caption of each row; 0 has the originals.
        similarities: [rows][10] recorded cosines of grades 10 to 100 with the original.
    """

    texts: Mapping[int, tuple[str, ...]]
    similarities: tuple[tuple[float, ...], ...]

    def __len__(self) -> int:
        return len(self.similarities)


def view_of(grade: int) -> str:
    """Name of the view of a grade.

    Example:
        >>> view_of(0), view_of(30)
        ('captions', 'captions-grade30')
    """
    return "captions" if grade == 0 else f"captions-grade{grade}"


def parse_grades(text: str) -> tuple[int, ...]:
    """Grades as typed, with commas between.

    Raises:
        DataInvalid: If one is none of `GRADES`.

    Example:
        >>> parse_grades("0, 50,100")
        (0, 50, 100)
    """
    parts = [part.strip() for part in text.split(",")]
    unknown = [part for part in parts if not part.isdecimal() or int(part) not in GRADES]
    if unknown:
        raise DataInvalid(f"grade {unknown[0]!r}: there are {', '.join(map(str, GRADES))} percent")
    return tuple(int(part) for part in parts)


def open_wit_graded(root: Path | None = None) -> Dataset:
    """Opens the graded captions from a folder with data.json, or that file itself; photos of WIT are taken if there.

    Views "captions" (the originals) and "captions-grade10" to "captions-grade100"; "images" where the folder holds
    wit_1024's Parquet files too. No splits, no labels.

    Raises:
        DataMissing: If the file is not there; the message lists the ways to get it.
        DataInvalid: If it is not in the released format, or its originals are not the captions of those photos.

    Source:
        Tjandrasuwita et al. 2025, arXiv:2502.16282, section 5; Srinivasan et al. 2021, arXiv:2103.01913.
    """
    if root is None:
        raise DataMissing(_missing("no --root given", None))
    path = root / FILE if root.is_dir() else root
    graded = read_graded(path)
    ids = tuple(f"{row:04d}" for row in range(len(graded)))
    views = {view_of(grade): text_view(view_of(grade), ids, ids, graded.texts[grade]) for grade in GRADES}
    photos = _photos(path.parent, graded)
    if photos is not None:
        views = {"images": photos, **views}
    notes = () if photos is not None else ("the photos of WIT are not there: only texts can be compared",)
    overlay = Overlay(ids, ("",) * len(ids))
    return Dataset(NAME, views, overlay, licence=LICENCE, source=f"{FILE} in a local folder", notes=notes)


def read_graded(path: Path) -> GradedCaptions:
    """Reads the released file.

    Args:
        path: The file, or the folder that holds it as data.json.

    Raises:
        DataMissing: If it is not there; the message lists the ways to get it.
        DataInvalid: If it is not in the released format; names the row.
    """
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise DataMissing(_missing(f"{FILE} is not there", path))
    if path.stat().st_size > _MOST_BYTES:
        raise DataInvalid(f"{NAME}: {path.name} has {path.stat().st_size:,} bytes, more than {_MOST_BYTES:,}")
    try:
        rows = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataInvalid(f"{NAME}: {path.name} is no JSON: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise DataInvalid(f"{NAME}: {path.name} is no list of rows")
    each = [_row(number, row, path.name) for number, row in enumerate(cast("list[Any]", rows))]
    texts = {grade: tuple(texts[grade] for texts, _ in each) for grade in GRADES}
    return GradedCaptions(texts, tuple(similarities for _, similarities in each))


def _row(number: int, row: Any, file: str) -> tuple[dict[int, str], tuple[float, ...]]:
    where = f"{NAME}: {file} row {number}"
    name = f"Index - {number}"
    try:
        (own,) = row
        sentences, recorded = row[name]["sentences"], row[name]["similarities"]
        wanted = {f"Caption {grade // 10} - {grade}%": grade for grade in GRADES}
        unlike = set(sentences) ^ set(wanted)
        texts = {grade: sentences[key] for key, grade in wanted.items()} if not unlike else {}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataInvalid(f"{where} is not {{{name!r}: {{'sentences', 'similarities'}}}}: {error!r}") from error
    if own != name or unlike:
        raise DataInvalid(f"{where} lacks or adds captions: {', '.join(sorted(map(str, unlike)))[:120]}")
    empty = [grade for grade, text in texts.items() if not isinstance(text, str) or not text.strip()]
    if empty:
        raise DataInvalid(f"{where} has no text at {empty[0]} %")
    if not isinstance(recorded, list) or not _ten_cosines(cast("Sequence[Any]", recorded)):
        raise DataInvalid(f"{where}: `similarities` are not ten cosines")
    return texts, tuple(float(value) for value in cast("Sequence[Any]", recorded))


def _ten_cosines(values: Sequence[Any]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(values) == len(numbers) == len(GRADES) - 1 and all(
        math.isfinite(value) and abs(value) <= 1 + 1e-6 for value in numbers
    )


def _photos(folder: Path, graded: GradedCaptions) -> View | None:
    """The photos of WIT beside the file, if any; their captions have to be the originals."""
    if not [*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]:
        return None
    from featcache.data.wit import open_wit_1024

    wit = open_wit_1024(folder)
    captions = wit.views["captions"]
    if len(captions) != len(graded):
        raise DataInvalid(f"{NAME}: {len(graded)} rows, but {len(captions)} photos lie beside the file")
    other = [row for row, text in enumerate(graded.texts[0]) if _plain(text) != _plain(captions.read(row))]
    if other:
        raise DataInvalid(
            f"{NAME}: {len(other)} originals are not the captions of the photos beside them, the first in row "
            f"{other[0]}: {graded.texts[0][other[0]][:60]!r} and {captions.read(other[0])[:60]!r}"
        )
    return replace(wit.views["images"], name="images")


def _plain(text: str) -> str:
    return " ".join(text.split())


def _missing(what: str, looked: Path | None) -> str:
    lines = [f"{NAME}: {what}", *([f"  Looked at: {looked}"] if looked is not None else [])]
    return "\n".join([*lines, *(f"  To get it: {way}" for way in WAYS)])
