"""Splits of rows in the runs that made an embedding, so that rows an adapter was trained on never pose as test rows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from featcache.data.views import Overlay
from featcache.errors import Damaged
from featcache.storage.base import Folder
from featcache.store.digest import ArrayKey
from featcache.store.rows import read_overlay_of

UNKNOWN = "unknown"  # the split of every row where the splits that a run was trained with are not in the cache
_USED = ("train", "validation")  # in this order: what any run was trained on counts as trained on


def run_record(run: str, overlay: str, validation: Sequence[str] = ()) -> dict[str, Any]:
    """What an embedding says of a run that was trained on its rows.

    Args:
        run: Name of the run's embeddings.
        overlay: Root of the splits and labels that the run was trained with.
        validation: Groups that the run took out of its training split to choose an epoch by, where it had to.
    """
    return {"run": run, "overlay": overlay, "validation": list(validation)}


def runs_of(key: ArrayKey) -> list[dict[str, Any]] | None:
    """Records of the runs that were trained on the rows of an array; None where nothing trained made it.

    An empty list: adapters made it, trained on other data. An embedding that says nothing of its run was made by
    featcache 0.1: its run counts as trained with the splits that are current.
    """
    recorded = key.provenance.get("runs")
    if recorded is not None:
        return list(recorded)
    made_by = key.binds["encoder"].get("made_by", {})
    return [run_record(key.encoder, "")] if "adapter" in made_by else None


def run_splits(dataset_folder: Folder, key: ArrayKey, groups: Sequence[str], current: Overlay) -> list[str]:
    """Split of each row in the runs that were trained on the rows of an array; empty where there is no such run.

    Args:
        dataset_folder: Where the tables of splits lie.
        key: Key of the array.
        groups: [n] group of each row.
        current: The splits that are current for the array's rows.

    Returns:
        [n] "train" where any run was trained on the row, else "validation" where one chose its epoch by it, else its
        split, where all agree; `UNKNOWN` for every row where the splits of a run are no longer in the cache.
    """
    records = runs_of(key)
    if not records:
        return []
    try:
        each = [_split_of_groups(dataset_folder, record, current) for record in records]
    except (Damaged, KeyError, TypeError):
        return [UNKNOWN] * len(groups)
    return [_joined([splits.get(group, "") for splits in each]) for group in groups]


def _split_of_groups(dataset_folder: Folder, record: Mapping[str, Any], current: Overlay) -> dict[str, str]:
    root = record["overlay"]
    if not re.fullmatch(r"[0-9a-f]*", root):  # it may come from another's cache, and becomes part of a file's name
        raise Damaged(f"{root!r} is no root of splits")
    overlay = current if root in ("", current.root) else read_overlay_of(dataset_folder, root)
    return dict(zip(overlay.groups, overlay.splits, strict=True)) | dict.fromkeys(record["validation"], "validation")


def _joined(splits: Sequence[str]) -> str:
    used = next((name for name in _USED if name in splits), None)
    return used or (splits[0] if len(set(splits)) == 1 else "")
