"""Small data of a user's own in every layout, for tests."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image
from typer.testing import CliRunner

from featcache import data
from featcache.commands.app import app
from featcache.data.options import OpenOptions, parse_columns


def picture(number: int, size: int = 40) -> bytes:
    """A JPEG of noise, another one for each number."""
    pixels = np.random.default_rng(number).integers(0, 255, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


def write_shard(path: Path, members: Mapping[str, bytes | str]) -> Path:
    """A tar file of these members, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def sample(number: int, key: str | None = None) -> dict[str, bytes | str]:
    """The members of one sample as img2dataset writes them."""
    key = f"{number:09}" if key is None else key
    caption = f"a picture of {number}"
    stated = {"caption": caption, "url": f"https://example.org/{number}", "key": key, "status": "success", "width": 40}
    return {f"{key}.jpg": picture(number), f"{key}.json": json.dumps(stated), f"{key}.txt": caption}


def write_table(path: Path, numbers: Sequence[int], **columns: Sequence[Any]) -> Path:
    """A Parquet file with images as the Hub stores them, captions, and whatever else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": picture(number), "path": f"{number}.jpg"} for number in numbers]
    struct = pl.Struct({"bytes": pl.Binary, "path": pl.String})
    frame = {"image": pl.Series(pictures, dtype=struct), "caption": [f"a picture of {number}" for number in numbers]}
    pl.DataFrame({**frame, **columns}).write_parquet(path)
    return path


def coco_list(path: Path, captions: Mapping[str, Sequence[str]]) -> Path:
    """The official JSON of captions, annotations in the reverse order of their numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": number, "file_name": name, "height": 40} for number, name in enumerate(captions, 100)]
    annotations = [
        {"id": 10 * number + place, "image_id": number, "caption": text}
        for number, texts in enumerate(captions.values(), 100)
        for place, text in enumerate(texts)
    ]
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations[::-1]}))
    return path


def write_pictures(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number))
    return root


def open_own(root: Path, *columns: str, **options: Any) -> data.Dataset:
    declared = OpenOptions(column=parse_columns(columns), **options)
    return data.open_dataset("folder:mine", root=root, options=declared)


def captions_of(dataset: data.Dataset) -> dict[str, str]:
    view = dataset.views["captions"]
    return {view.ids[row]: view.read(row) for row in range(len(view))}


def split_by_group(dataset: data.Dataset) -> dict[str, str]:
    return dict(zip(dataset.overlay.groups, dataset.overlay.splits, strict=True))


def command(*words: str | Path) -> tuple[int, str]:
    """What a command ends with and prints; an error of ours is a code other than 0 and its message."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    raised = result.exception
    told = "" if raised is None or isinstance(raised, SystemExit) else f"{type(raised).__name__}: {raised}"
    return result.exit_code, result.output + told
