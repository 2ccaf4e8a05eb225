"""Ids of encoders in other libraries, such as hf:facebook/dinov2-small: their parts, and what features are called."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from featcache.errors import UsageError

Tower = Literal["image", "text", "audio"]
LIBRARIES = ("hf", "timm", "open_clip")
_ID = re.compile(r"(?P<library>[a-z_]+):(?P<place>[^@#\s]+)(@(?P<revision>[^@#\s]+))?(#(?P<tower>image|text|audio))?")
_LOCAL = ("/", "./", "../", "~")


@dataclass(frozen=True)
class EncoderId:
    """A parsed id: `LIBRARY:PLACE[@REVISION][#TOWER]`."""

    text: str
    library: Literal["hf", "timm", "open_clip"]
    place: str  # a repository, a name of timm, or a folder that begins with /, ./, ../ or ~
    revision: str | None  # of a repository
    tower: Tower | None  # of a network with one for images and one for texts; None: every one that it has

    @property
    def is_folder(self) -> bool:
        """Whether it names a folder of this machine."""
        return self.place.startswith(_LOCAL) or self.place in (".", "..")

    @property
    def name(self) -> str:
        """The name of the entry and of its features, from the letters of the place: in lower case, others as '-'.

        Example:
            >>> parse_id("timm:vit_small_patch14_dinov2.lvd142m").name
            'vit_small_patch14_dinov2-lvd142m'
            >>> parse_id("hf:facebook/dinov2-small@main").name
            'facebook-dinov2-small'
        """
        place = Path(self.place).expanduser().resolve().name if self.is_folder else self.place
        return re.sub(r"[^a-z0-9_]+", "-", place.lower()).strip("-_") or "encoder"


def is_id(text: str) -> bool:
    """Whether a text is meant as an id and not as an encoder's name, which has no colon.

    Example:
        >>> is_id("hf:facebook/dinov2-small"), is_id("dinov2-small")
        (True, False)
    """
    return ":" in text


def parse_id(text: str) -> EncoderId:
    """An id by its parts.

    Raises:
        UsageError: If it is not of the form `LIBRARY:PLACE[@REVISION][#TOWER]`, or of another library.

    Example:
        >>> parse_id("hf:openai/clip-vit-base-patch32@refs/pr/15#text").revision
        'refs/pr/15'
    """
    match = _ID.fullmatch(text)
    library: Any = match and match["library"]
    if match is None or library not in LIBRARIES:
        raise UsageError(
            f"{text!r} is no id of an encoder: LIBRARY:PLACE[@REVISION][#image|#text|#audio], of the libraries "
            f"{', '.join(LIBRARIES)}\n"
            "  As in: hf:facebook/dinov2-small, hf:./my_model, timm:vit_small_patch14_dinov2.lvd142m, "
            "open_clip:ViT-B-32/laion2b_s34b_b79k"
        )
    tower: Any = match["tower"]
    result = EncoderId(text, library, match["place"], match["revision"], tower)
    if result.is_folder and result.revision:
        raise UsageError(f"{text!r}: a folder has no revision\n  Leave out @{result.revision}")
    if not result.is_folder and result.library == "hf" and result.place.count("/") > 1:
        raise UsageError(f"{text!r}: a repository is ORG/NAME\n  A folder begins with /, ./ or ~: hf:./{result.place}")
    return result
