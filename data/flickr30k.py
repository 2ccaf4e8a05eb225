"""What is Flickr30k: 31,783 photos in the order of their numbers, five captions each, whichever layout it came from?

Images have the id "<file>" ("1000092795.jpg"), captions "<file>#<0-4>"; both have the file's stem as their group.
Captions are in the normal form of `featcache.data.texts.normal_caption`. Photos and captions that Karpathy's splits hold (29,000
train, 1,014 validation, 1,000 test) have equal ids and texts in every layout; the other 769 are in the token file and
the plain Parquet only and get the split "other". Counts are of the full set; a part of it opens too.
"""

from pathlib import Path

from featcache.data.catalogue import DATASETS
from featcache.data.errors import DataInvalid
from featcache.data.flickr30k_layouts import Layout, file_number, read_layout
from featcache.data.hub import download
from featcache.data.images import image_view
from featcache.data.texts import normal_caption, text_view
from featcache.data.views import Dataset, Overlay

HUB_REPO, HUB_REVISION, HUB_PATTERNS = "nlphuji/flickr30k", "refs/convert/parquet", ("TEST/test/*.parquet",)
HUB_PHOTOS = 31_014  # Karpathy's 29,000 + 1,014 + 1,000


def open_flickr30k(root: Path | None = None) -> Dataset:
    """Opens Flickr30k from a folder in any of three layouts, or from the Hub.

    Args:
        root: A folder in a layout of `featcache.data.flickr30k_layouts`; None downloads the split Parquet from the Hub.

    Returns:
        Views "images" and "captions"; splits of Karpathy and "other".

    Raises:
        DataMissing: If the data, or a listed photo, is not there.
        DataInvalid: If files contradict their format or each other; names the row.

    Source:
        Young et al. 2014, TACL 2, 67-78; splits of Karpathy and Fei-Fei 2015, arXiv:1412.2306.
    """
    if root is not None:
        layout = read_layout(root)
        return _dataset(layout, f"{layout.kind} layout in a local folder")
    folder = download("flickr30k", HUB_REPO, HUB_REVISION, HUB_PATTERNS)
    layout = read_layout(folder.path)
    if len(layout.captions) != HUB_PHOTOS:
        count = len(layout.captions)
        raise DataInvalid(
            f"flickr30k: {folder.source} should hold {HUB_PHOTOS} photos but {count} are in {folder.path}"
            "\n  The download is incomplete: delete that folder and open the data set again online"
        )
    return _dataset(layout, folder.source)


def _dataset(layout: Layout, source: str) -> Dataset:
    files = tuple(sorted(layout.captions, key=lambda file: (file_number(file), file)))
    stems = tuple(file.removesuffix(".jpg") for file in files)
    rows = [
        (f"{file}#{place}", stem, normal_caption(text))
        for file, stem in zip(files, stems, strict=True)
        for place, text in enumerate(layout.captions[file])
    ]
    ids, groups, texts = zip(*rows, strict=True) if rows else ((), (), ())
    images = image_view("images", files, stems, lambda row: layout.content(files[row]))
    captions = text_view("captions", ids, groups, texts)
    overlay = Overlay(stems, tuple(layout.splits.get(file, "other") for file in files))
    licence = DATASETS["flickr30k"].licence
    return Dataset("flickr30k", {"images": images, "captions": captions}, overlay, licence, source, layout.notes)
