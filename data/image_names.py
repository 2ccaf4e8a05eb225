"""Names of images and sounds as a caption file writes them, matched to the files of the folder."""

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from featcache.data.errors import DataInvalid, DataMissing

# how a name may differ from the path of its file and still be told, where just one file fits
_READINGS: dict[str, Callable[[str], str]] = {
    "differ from their image's in case or Unicode form": lambda path: _folded(path),
    "lack the folder of their image": lambda path: _folded(PurePosixPath(path).name),
    "lack the ending of their image": lambda path: _folded(PurePosixPath(path).stem),
}


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


class ImageNames:
    """Finds the file of a name.

    A name is a path below the folder, with "/" or a backslash, or an absolute one that lies in the folder. Where no
    file has it, the one is taken that differs in case or Unicode form (NFC, NFD) alone, else the one in a subfolder
    where the name has no folder, else the one with an ending where the name has none. A name that fits several files is
    refused.

    Args:
        root: The folder.
        images: Paths of its images below it, with "/".
        where: The caption file, for messages.
        base: Folder of the caption file below the root, in which names are looked up first; "" for the root.
        allow_missing: Whether names without an image are noted, and not refused.
        what: What the files are, for messages.
    """

    def __init__(
        self, root: Path, images: Sequence[str], where: str, base: str = "", *, allow_missing: bool = False,
        what: str = "image",
    ) -> None:  # fmt: skip
        self._root, self._images, self._where, self._base = root, images, where, base
        self._allow_missing, self._what = allow_missing, what
        self._known = set(images)
        self._absent: dict[str, str] = {}
        self._differing: Counter[str] = Counter()
        self._example: dict[str, tuple[str, str]] = {}
        self._tables: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str, here: str) -> str | None:
        """Path of the image of a name; None where there is none, which `check` then refuses or notes.

        Args:
            name: As the caption file has it.
            here: The row, for messages.

        Raises:
            DataInvalid: If it is empty, leads out of the folder, or fits several images.
        """
        path = self._plain(name, here)
        for candidate in dict.fromkeys([f"{self._base}/{path}".lstrip("/"), path]):
            if candidate in self._known:
                return candidate
        for how, reading in _READINGS.items():
            if ("folder" in how and "/" in path) or ("ending" in how and ("/" in path or "." in path)):
                continue
            fitting = self._table(how, reading).get(reading(path), [])
            if len(fitting) > 1:
                raise DataInvalid(f"{here}: {name!r} fits {len(fitting)} images: {', '.join(fitting[:5])}")
            if fitting:
                self._differing[how] += 1
                self._example.setdefault(how, (name, fitting[0]))
                return fitting[0]
        self._absent.setdefault(path, here)
        return None

    def check(self) -> list[str]:
        """Notes on names that were told though they differ.

        Raises:
            DataMissing: If names have no image; counts them, and names those that are nearest to the first.
        """
        if self._absent and not self._allow_missing:
            raise self._no_such_images()
        absent = [absent_note(self._where, list(self._absent), self._what)] if self._absent else []
        return absent + [
            f"{self._where}: {count:,} names {how.replace('image', self._what)}, as {name!r} for {path!r}"
            for how, count in self._differing.items()
            for name, path in [self._example[how]]
        ]

    def _plain(self, name: str, here: str) -> str:
        """The name as a relative path with "/"."""
        text = name.strip()
        if "\\" in text and text not in self._known:
            text = PureWindowsPath(text).as_posix()
        path = PurePosixPath(text)
        if path.is_absolute():
            roots = [root for root in (self._root, self._root.resolve()) if path.is_relative_to(root.as_posix())]
            path = path.relative_to(roots[0].as_posix()) if roots else path
        outside = path.is_absolute() or re.match(r"[A-Za-z]:/", text) or ".." in path.parts
        if outside or str(path) == ".":
            raise DataInvalid(f"{here}: the {self._what} must be a plain path below the folder, as in 'photos/one.jpg'")
        return str(path)

    def _table(self, how: str, reading: Callable[[str], str]) -> dict[str, list[str]]:
        if how not in self._tables:
            table: dict[str, list[str]] = defaultdict(list)
            for image in self._images:
                table[reading(image)].append(image)
            self._tables[how] = table
        return self._tables[how]

    def _no_such_images(self) -> DataMissing:
        first, here = next(iter(self._absent.items()))
        more = f", nor for {len(self._absent) - 1:,} more" if len(self._absent) > 1 else ""
        what = f"there is no such {self._what} below the folder{more}"
        if (self._root / first).is_file():
            what = f"{first!r} is a file of a format that is not read ({PurePosixPath(first).suffix or 'no ending'})"
        elif near := self._nearest(first):
            what += f"; nearest: {', '.join(map(repr, near))}"
        return DataMissing(
            f"{here}: {what}\n  Looked at: {self._root / first}\n"
            f"  To mend: write the {self._what}'s path below the folder, put the {self._what} there, or "
            "remove the row; to leave such rows out: --allow-missing"
        )

    def _nearest(self, name: str) -> list[str]:
        """Images whose path is near to a name, or else whose own name is, in whichever folder."""
        images = self._images[:20_000]
        near = difflib.get_close_matches(name, images, n=3, cutoff=0.6)
        if not near:
            paths = {PurePosixPath(image).name: image for image in images}
            own = difflib.get_close_matches(PurePosixPath(name).name, paths, n=3, cutoff=0.6)
            near = [paths[each] for each in own]
        return near


def absent_note(where: str, absent: Sequence[str], what: str = "image") -> str:
    """The note on images, or others, that a list names and that are not there, where that is allowed.

    Example:
        >>> absent_note("captions.csv", ["b.jpg", "c.jpg"])
        'captions.csv: 2 images are not there and left out (--allow-missing), the first b.jpg'
    """
    many = f"{len(absent):,} {what}s are" if len(absent) > 1 else f"1 {what} is"
    return f"{where}: {many} not there and left out (--allow-missing), the first {absent[0]}"
