"""The card (README.md) of a data set repository on the Hub, written from the keys of its arrays alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featcache.entries import Entry
from featcache.store.digest import ArrayKey

MARK = "<!-- written by featcache push -->"
_KNOWN_LICENCES = {  # as our data sets word them -> as the Hub names them
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-SA 3.0": "cc-by-sa-3.0",
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC0 1.0": "cc0-1.0",
    "MIT": "mit",
}
_MODALITIES = ("image", "text", "audio")


def card(arrays: Sequence[tuple[Entry, ArrayKey]], address: str) -> str:
    """The README.md of a repository that holds these arrays.

    Everything comes from the arrays' keys; nothing is looked up. What a key does not state is "not stated".

    Args:
        arrays: The listing and the key of each array.
        address: Where they lie, `hf://datasets/owner/name[/path]`.

    Returns:
        Markdown with the Hub's YAML header; it holds MARK.

    Example:
        card([(entry_of(array), array.key()) for array in cache.arrays()], "hf://datasets/lab/features")
    """
    keys = [key for _, key in arrays]
    data = _data_rows(keys)
    name = address.removeprefix("hf://datasets/").partition("@")[0]
    datasets = sorted({key.dataset for key in keys})
    parts = [
        f"---\n{_header(keys, data)}\n---",
        MARK,
        f"# {_cell(name)}",
        f"Cached features of frozen encoders over {_listed(datasets)}, in the format of featcache: each array is a "
        "plain Zarr v3 array with a checksum in every chunk, named by a digest of everything that was asked of it.",
        "## What is in it",
        "Features [n, d], one row a sample; the rows' ids and groups; hashes of the samples; splits and labels.",
        _table(("data set", "view", "encoder", "layer", "n", "d", "dtype", "digest", "root"), _array_rows(arrays)),
        "## What is not in it",
        "No images, no captions or other texts, no audio, and no weights. Get the data from its source. Features may "
        "be used only as the licences of the data and of the encoders allow.",
        "## The data",
        _table(("data set", "view", "rows", "licence", "source", "notes"), data),
        "## The encoders",
        _table(("encoder", "from", "revision", "licence", "library"), _encoder_rows(keys)),
        "## How to get it",
        f"```\npip install 'featcache[share]'\n{_pull(address, datasets)}\n```",
        "What is there already is not fetched again, and every byte is checked on arrival.",
    ]
    return "\n\n".join(parts) + "\n"


def _pull(address: str, datasets: Sequence[str]) -> str:
    return "\n".join([f"featcache pull {address}", *(f"featcache ls {dataset}" for dataset in datasets)])


def _header(keys: Sequence[ArrayKey], data: Sequence[Sequence[str]]) -> str:
    """The YAML header; strings stand as JSON, which is YAML."""
    licences = {row[3] for row in data}
    known = {_KNOWN_LICENCES.get(licence) for licence in licences}
    hub = known.pop() if len(known) == 1 else None
    lines = [f"license: {hub or 'other'}"]
    if hub is None:
        restricted = any("non-commercial" in licence.lower() for licence in licences)
        lines.append(f"license_name: {'non-commercial' if restricted else 'as-the-data'}")
    tags = ["features", "embeddings", "featcache", "zarr"]
    tags += sorted({kind for key in keys if (kind := _rows(key).get("modality")) in _MODALITIES})
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in tags)]
    lines += ["viewer: false"]  # the Hub's viewer would show the row tables as if they were the data
    return "\n".join(lines)


def _array_rows(arrays: Iterable[tuple[Entry, ArrayKey]]) -> Sequence[Sequence[Any]]:
    rows = [
        (e.dataset, e.view, e.encoder, e.layer, f"{e.n:,}", e.d, e.dtype, e.digest[:12], e.root[:12] or "incomplete")
        for e, _ in arrays
    ]
    return sorted(rows, key=lambda row: row[:4])


def _data_rows(keys: Iterable[ArrayKey]) -> Sequence[Sequence[str]]:
    """A row for each row table, from what all arrays over the same rows state of their data."""
    stated: dict[tuple[str, str, str], dict[str, Any]] = {}
    for key in keys:
        rows = _rows(key)
        place = (key.dataset, key.view, f"{rows['n']:,} ({rows['root'][:12]})" if rows else "")
        stated[place] = {**key.provenance.get("dataset", {}), **stated.get(place, {})}
    return [
        (
            *place,
            str(about.get("licence") or "not stated"),
            str(about.get("source") or "not stated"),
            "; ".join(about.get("notes") or ()),
        )
        for place, about in sorted(stated.items(), key=lambda item: item[0])
    ]


def _rows(key: ArrayKey) -> Mapping[str, Any]:
    """What the digest binds of the rows; empty for an array that is not one row a sample."""
    return key.binds.get("rows", {})


def _encoder_rows(keys: Iterable[ArrayKey]) -> Sequence[Sequence[Any]]:
    return sorted({_encoder_row(key) for key in keys})


def _encoder_row(key: ArrayKey) -> tuple[str, ...]:
    made_from = key.provenance.get("from")
    if made_from is not None:  # derived: the adapter's hash is bound, its source array named
        return key.encoder, f"computed from {made_from}", "", "as its source", ""
    about: Mapping[str, Any] = key.provenance.get("encoder", {})
    origin, revision = _origin(about)
    weights = key.binds.get("encoder", {}).get("weights")
    if isinstance(weights, Mapping) and weights.get("random"):
        origin = f"random weights, seed {weights.get('seed')}; settings: {origin}"
    versions = ", ".join(f"{name} {version}" for name, version in (about.get("versions") or {}).items() if version)
    return key.encoder, origin, revision, str(about.get("licence") or "not stated"), versions


def _origin(about: Mapping[str, Any]) -> tuple[str, str]:
    """Where an encoder's weights came from, and which state of it."""
    if about.get("random"):
        return "the library's own", ""
    if about.get("repo"):
        revision = "@".join(str(about[name]) for name in ("revision", "commit") if about.get(name))
        return f"https://huggingface.co/{about['repo']}", revision
    if about.get("package"):
        return f"PyPI {about['package']}", str(about.get("version") or "")
    return "a local folder" if about.get("folder") else "not stated", ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_cell(name) for name in names) or "no data set yet"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    """A value as one cell: provenance is data, and must not become markup."""
    text = " ".join(str(value).split())
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return text
