"""Flickr30k: 31,783 photos in the order of their numbers, five captions each, one result whichever layout it came from.

Images have the id "<file>" ("1000092795.jpg"), captions "<file>#<0-4>"; both have the file's stem as their group.
Captions are in the normal form of `texts.normal_caption`. Photos and captions that Karpathy's splits hold (29,000
train, 1,014 validation, 1,000 test) have equal ids and texts in every layout; the other 769 are in the token file and
the plain Parquet only and get the split "other". Counts are of the full set; a part of it opens too. Where the root
also holds Multi30k's German captions (`flickr30k_german`), they are the view "captions-de", with ids and groups alike.

"caption-1" to "caption-5" are one caption a photo, the first to the fifth, with the ids that they have in "captions";
"spoken-1" to "spoken-5" are the same ones, synthesised.
"""

from pathlib import Path

from featcache.data.datasets import DATASETS
from featcache.data.errors import DataInvalid
from featcache.data.flickr30k_german import check_photos, read_german
from featcache.data.flickr30k_layouts import CAPTIONS, Flickr30kFiles, file_number, read_files
from featcache.data.hub import download
from featcache.data.images import image_view
from featcache.data.options import OpenOptions
from featcache.data.speech import Utterance, speech_view
from featcache.data.spoken import with_spoken
from featcache.data.texts import normal_caption, text_view
from featcache.data.views import Dataset, Overlay, View

HUB_REPO, HUB_REVISION, HUB_PATTERNS = "nlphuji/flickr30k", "refs/convert/parquet", ("TEST/test/*.parquet",)
HUB_PHOTOS = 31_014  # Karpathy's 29,000 + 1,014 + 1,000


def open_flickr30k(root: Path | None = None, options: OpenOptions | None = None) -> Dataset:
    """Opens Flickr30k from a folder in a layout of `flickr30k_layouts`, or, with no root, from the Hub's split Parquet.

    Views "images", "captions" and, where the root holds them, "captions-de" and "spoken" (`spoken`); "caption-1" to
    "caption-5" and "spoken-1" to "spoken-5", one row a photo; splits of Karpathy and "other".

    Source:
        Young et al. 2014, TACL 2, 67-78; splits of Karpathy and Fei-Fei 2015, arXiv:1412.2306; German captions of
        Elliott et al. 2016, arXiv:1605.00459.
    """
    if root is not None:
        files = read_files(root)
        dataset = _dataset(files, f"{files.kind} layout in a local folder", read_german(root))
        return with_spoken(dataset, root, seconds=(options or OpenOptions()).seconds)
    folder = download("flickr30k", HUB_REPO, HUB_REVISION, HUB_PATTERNS)
    files = read_files(folder.path)
    if len(files.captions) != HUB_PHOTOS:
        count = len(files.captions)
        raise DataInvalid(
            f"flickr30k: {folder.source} should hold {HUB_PHOTOS} photos but {count} are in {folder.path}"
            "\n  The download is incomplete: delete that folder and open the data set again online"
        )
    return _dataset(files, folder.source, {})


def _dataset(files: Flickr30kFiles, source: str, german: dict[str, list[str]]) -> Dataset:
    notes = (*files.notes, *check_photos(german, files.captions))
    names = tuple(sorted(files.captions, key=lambda file: (file_number(file), file)))
    stems = tuple(file.removesuffix(".jpg") for file in names)
    views = {
        "images": image_view("images", names, stems, lambda row: files.content(names[row])),
        "captions": _caption_view("captions", names, files.captions),
    }
    if german:
        views["captions-de"] = _caption_view("captions-de", names, german)
    views |= _views_by_place(views["captions"])
    overlay = Overlay(stems, tuple(files.splits.get(file, "other") for file in names))
    return Dataset(
        name="flickr30k",
        views=views,
        overlay=overlay,
        licence=DATASETS["flickr30k"].licence,
        source=source,
        notes=notes,
    )


def _caption_view(name: str, files: tuple[str, ...], captions: dict[str, list[str]]) -> View:
    rows = [
        (f"{file}#{place}", file.removesuffix(".jpg"), normal_caption(text))
        for file in files
        for place, text in enumerate(captions.get(file, ()))
    ]
    ids, groups, texts = zip(*rows, strict=True) if rows else ((), (), ())
    return text_view(name, ids, groups, texts)


def _views_by_place(captions: View) -> dict[str, View]:
    """The n-th caption of each photo as text and as speech, for n from 1 to 5."""
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for row, (row_id, group) in enumerate(zip(captions.ids, captions.groups, strict=True)):
        rows.setdefault(row_id.rpartition("#")[2], []).append((row_id, group, captions.read(row)))
    views: list[View] = []
    for place in range(CAPTIONS):
        own = rows.get(str(place), [])
        ids, groups, texts = ([row[column] for row in own] for column in range(3))
        views.append(text_view(f"caption-{place + 1}", ids, groups, texts))
        views.append(speech_view(f"spoken-{place + 1}", ids, groups, list(map(Utterance, texts))))
    return {view.name: view for view in sorted(views, key=lambda view: view.name)}
