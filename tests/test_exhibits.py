"""Does a page show what was encoded, and only what it may?"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import polars as pl
import pytest
from PIL import Image

from featcache import data
from featcache.cache import Cache
from featcache.commands.exhibits import headline_exhibits
from featcache.commands.training import report
from featcache.data import openmoji
from featcache.data.datasets import DATASETS, DatasetEntry
from featcache.data.open import DatasetSource
from featcache.data.views import Dataset
from featcache.errors import UsageError
from featcache.report.page import write
from featcache.report.runs import load_runs
from featcache.store.rows import write_rows
from featcache.studies import exhibits
from featcache.studies.exhibits import Wanted, exhibit_ids, load_exhibits
from featcache.trainer.errors import RunDamaged
from featcache.trainer.run import Run, load_run
from featcache.trainer.run_files import write_manifest
from tests.spine import store
from tests.test_data_flickr30k import folder_layout
from tests.test_report_runs import write_run

EMOJI = ("1F34E", "1F34F", "1F355", "1F680")  # two apples, a pizza, a rocket


def make_run(
    folder: Path,
    dataset: str,
    *,
    sides: Mapping[str, str] | None = None,
    groups: Sequence[str] = (),
    answers: Sequence[tuple[str, str, str]] = (),
) -> Run:
    """A run whose tables name rows.

    Args:
        folder: Where to.
        dataset: Name of the data set.
        sides: Name -> view.
        groups: Of the table of neighbours: each beside the next.
        answers: (direction, query, answer) of the table of answers; a row's group is its id up to "#" and suffix.
    """
    views = sides or {"images": "images", "captions": "captions"}
    encoders = ["resnet18", *["gpt2"] * (len(views) - 1), None]
    write_run(folder, sides=[*views], encoders=encoders, points=12, epochs=2, pictures=False)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dataset"] = dataset
    for name, view in views.items():
        config["sides"][name]["view"] = view
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if groups:
        near = {"id": list(groups), "label": "", "space": "joint", "rank": 1, "neighbor": [*groups[1:], groups[0]]}
        pl.DataFrame(near).write_parquet(folder / "neighbors.parquet")
    if answers:
        rows = [
            {"direction": way, "query": one, "answer": two, "group": _stem(one), "answer_group": _stem(two)}
            | {"label": "", "first_right": 2, "margin": 0.1, "rank": 1, "right": False}
            for way, one, two in answers
        ]
        pl.DataFrame(rows).write_parquet(folder / "answers.parquet")
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    return load_run(folder)


def _stem(row: str) -> str:
    return row.partition("#")[0].removesuffix(".jpg")


def own_folder(root: Path) -> Path:
    """Three pictures with captions in a folder of somebody's own."""
    root.mkdir()
    lines = ["image,caption"]
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        Image.new("RGB", (200, 100), (80 * number, 0, 0)).save(root / name)
        lines.append(f'{name},"<script>alert({number})</script>"')
    (root / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def cached(root: Path, dataset: Dataset, run: Run) -> Run:
    """The run, on features of the data set that are cached at `root`."""
    cache = Cache(root)
    config = json.loads(json.dumps(run.config))
    for side, encoder in (("images", "resnet18"), ("captions", "gpt2")):
        view = dataset.views[config["sides"][side]["view"]]
        write_rows(cache.folder / dataset.name / view.name, view, dataset.overlay)
        store(cache, dataset, view, encoder, np.ones((len(view), 4), np.float16))
        config["sides"][side]["digest"] = next(iter(cache.arrays(dataset.name, view.name, encoder))).digest
    return replace(run, config=config)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=float)


def test_drawings_and_captions_of_openmoji_are_shown_by_default_as_they_were_encoded(tmp_path: Path) -> None:
    answers = [("images→captions", "1F680", "1F355")]
    run = make_run(tmp_path / "run", "openmoji", groups=EMOJI, answers=answers)
    shown = load_exhibits(run, cache=tmp_path / "none")
    dataset = data.open_dataset("openmoji")
    for view, found in (("images", shown.thumbnails), ("captions", shown.texts)):
        assert set(found) == {view} and set(found[view]) == set(EMOJI)
    for row, emoji in enumerate(dataset.views["images"].ids):
        if emoji in EMOJI:
            picture = dataset.views["images"].read(row)
            content = shown.thumbnail("images", emoji)
            assert content is not None and content == shown.group_thumbnail(emoji)
            assert content[:4] == b"RIFF" and content[8:12] == b"WEBP"
            assert pixels(content).shape == (64, 64, 3)
            oracle = np.asarray(picture, dtype=float).reshape(64, 4, 64, 4, 3).mean((1, 3))
            assert np.abs(pixels(content) - oracle).mean() < 8
            assert shown.text("captions", emoji) == shown.group_text(emoji) == dataset.views["captions"].read(row)
    assert "OpenMoji, CC BY-SA 4.0" in shown.licence and "Unicode" in shown.licence
    assert len(shown.notes) == 1 and "not compared" in shown.notes[0]


def test_the_thumbnails_of_the_test_drawings_of_openmoji_fit_a_page(tmp_path: Path) -> None:
    overlay = data.open_dataset("openmoji").overlay
    test = [group for group, split in zip(overlay.groups, overlay.splits, strict=True) if split == "test"]
    run = make_run(tmp_path / "run", "openmoji", groups=test[::5])
    found = load_exhibits(run, texts=False).thumbnails["images"]
    assert len(found) == len(test[::5])
    assert 5 * sum(map(len, found.values())) < 350_000


def test_rows_of_one_id_in_two_views_keep_their_own_texts(tmp_path: Path) -> None:
    sides = {"images": "images", "captions": "captions", "names-de": "names-de"}
    run = make_run(tmp_path / "run", "openmoji", sides=sides, groups=EMOJI)
    shown = load_exhibits(run)
    assert shown.text("captions", "1F355") != shown.text("names-de", "1F355") == "pizza"
    assert shown.group_text("1F355") == shown.text("captions", "1F355")


def test_the_rows_that_are_wanted_are_those_of_both_tables_once_each(tmp_path: Path) -> None:
    answers = [
        ("images→captions", "1.jpg", "2.jpg#0"),
        ("images→captions", "1.jpg", "3.jpg#4"),
        ("captions→images", "2.jpg#0", "1.jpg"),
        ("images→elsewhere", "9.jpg", "9.jpg#0"),
    ]
    run = make_run(tmp_path / "run", "flickr30k", groups=["3", "7"], answers=answers)
    wanted = exhibit_ids(run)
    assert wanted.rows == {"images": ["1.jpg"], "captions": ["2.jpg#0", "3.jpg#4"]}
    assert wanted.groups == ("1", "2", "3", "9", "7")
    assert exhibit_ids(make_run(tmp_path / "old", "flickr30k")) == Wanted()


def test_a_table_that_lacks_a_column_is_a_damaged_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "openmoji", groups=EMOJI)
    lacking = pl.DataFrame({"id": ["a"], "label": [""], "space": ["joint"], "rank": [1]})
    lacking.write_parquet(run.path / "neighbors.parquet")
    with pytest.raises(RunDamaged, match=r"neighbors\.parquet cannot be read: no column neighbor"):
        exhibit_ids(run)


def test_nothing_of_flickr30k_is_shown_or_even_opened_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DatasetSource, "open", lambda _: pytest.fail("opened"))
    run = make_run(tmp_path / "run", "flickr30k", groups=["1000092795"])
    shown = load_exhibits(run)
    assert not shown.texts and not shown.thumbnails and not shown.licence
    (note,) = shown.notes
    assert "flickr30k are not shown" in note and "non-commercial" in note
    assert "--thumbnails --texts --root DIR" in note
    assert not load_exhibits(run, texts=False, thumbnails=False).notes


def test_flickr30k_is_shown_to_who_asks_beside_its_terms(tmp_path: Path) -> None:
    root = folder_layout(tmp_path / "flickr")
    answers = [("images→captions", "1000092795.jpg", "10002456.jpg#3")]
    run = make_run(tmp_path / "run", "flickr30k", groups=["36979"], answers=answers)
    shown = load_exhibits(run, thumbnails=True, root=root)
    assert set(shown.thumbnails["images"]) == {"1000092795.jpg", "10002456.jpg", "36979.jpg"} and not shown.texts
    assert shown.first_rows["images"]["36979"] == "36979.jpg"
    assert "non-commercial" in shown.licence
    assert "at the wish of whoever made this page" in shown.notes[0] and "non-commercial" in shown.notes[0]
    assert any("The texts of flickr30k are not shown" in note for note in shown.notes)
    texts = load_exhibits(run, texts=True, thumbnails=False, root=root).texts["captions"]
    assert texts["10002456.jpg#3"] == "Two guys, number 3, look at 10002456."
    assert set(texts) == {"10002456.jpg#3", "10002456.jpg#0", "1000092795.jpg#0", "36979.jpg#0"}


def test_somebodys_own_folder_is_shown_only_to_who_asks_and_texts_stay_text(tmp_path: Path) -> None:
    root = own_folder(tmp_path / "stamps")
    run = make_run(tmp_path / "run", "stamps", groups=["a.png", "b.png"])
    assert "they are their owner's" in load_exhibits(run).notes[0]
    shown = load_exhibits(run, texts=True, thumbnails=True, root=root)
    assert shown.group_text("b.png") == "<script>alert(1)</script>"
    picture = shown.group_thumbnail("b.png")
    assert picture is not None and pixels(picture).shape == (32, 64, 3)


def test_rows_of_other_content_than_was_encoded_and_broken_ones_are_left_out_with_a_note(tmp_path: Path) -> None:
    root = own_folder(tmp_path / "stamps")
    run = make_run(tmp_path / "run", "stamps", groups=["a.png", "b.png", "c.png"])
    place = tmp_path / "cache"
    run = cached(place, data.open_dataset("folder", root=root), run)
    shown = load_exhibits(run, thumbnails=True, root=root, cache=place)
    assert set(shown.thumbnails["images"]) == {"a.png", "b.png", "c.png"} and len(shown.notes) == 2
    Image.new("RGB", (9, 9), "green").save(root / "b.png")
    (root / "c.png").write_bytes(b"\x89PNG hostile")
    shown = load_exhibits(run, thumbnails=True, root=root, cache=place)
    assert set(shown.thumbnails["images"]) == {"a.png"}
    assert any("2 of other content than was encoded" in note for note in shown.notes)
    unchecked = load_exhibits(run, thumbnails=True, root=root, cache=tmp_path / "none")
    assert set(unchecked.thumbnails["images"]) == {"a.png", "b.png"}
    assert any("1 cannot be read, the first 'c.png': not a whole image file" in note for note in unchecked.notes)
    assert any("not compared" in note for note in unchecked.notes)


def test_what_is_asked_for_and_cannot_be_shown_is_an_error_and_unasked_a_note(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "stamps", groups=["a.png"])
    with pytest.raises(UsageError, match=r"nothing of stamps can be shown: folder: no --root given"):
        load_exhibits(run, thumbnails=True)
    with pytest.raises(UsageError, match=r"--root .* nothing of it would be shown\n  Add --thumbnails"):
        load_exhibits(run, root=tmp_path)
    with pytest.raises(UsageError, match=r"openmoji comes from installed packages and takes no --root"):
        load_exhibits(make_run(tmp_path / "emoji", "openmoji", groups=EMOJI), root=tmp_path)
    old = make_run(tmp_path / "old", "openmoji")
    assert "has neither neighbours nor answers" in load_exhibits(old).notes[0]
    with pytest.raises(UsageError, match=r"Train it again with --overwrite"):
        load_exhibits(old, texts=True)
    words = {"captions": "captions", "names-de": "names-de"}
    with pytest.raises(UsageError, match=r"has no pictures; .* captions \(text\), names-de \(text\)\n  Leave out --th"):
        load_exhibits(make_run(tmp_path / "words", "openmoji", sides=words, groups=EMOJI), thumbnails=True)
    prompts = {"images": "images", "prompts": "prompts"}
    (note,) = load_exhibits(make_run(tmp_path / "cifar", "cifar10", sides=prompts, groups=["1"])).notes
    assert note == "Nothing of cifar10 is shown: cifar10: no --root given. Add --root DIR, the folder that holds it."


def test_without_the_packages_of_openmoji_a_note_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openmoji, "_PACKAGES", ("no-such-package",))
    run = make_run(tmp_path / "run", "openmoji", groups=EMOJI)
    shown = load_exhibits(run)
    assert "package no-such-package is not installed" in shown.notes[0] and "--root" not in shown.notes[0]
    with pytest.raises(UsageError, match=r"pip install 'featcache\[demo\]'"):
        load_exhibits(run, texts=True)


def test_a_page_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(_: str, *, local_files_only: bool, **__: Any) -> str:
        assert local_files_only
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    (note,) = load_exhibits(make_run(tmp_path / "run", "wit_1024", groups=["0001"])).notes
    assert "not on this machine, and nothing is downloaded here. Add --root DIR" in note


def test_a_page_shows_no_more_than_its_most_and_says_how_many_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exhibits, "MOST", {"image": 2, "text": 3})
    monkeypatch.setattr(exhibits, "LONGEST_TEXT", 6)
    answers = [("images→captions", "1F680", "1F355")]
    run = make_run(tmp_path / "run", "openmoji", groups=[*EMOJI, "no emoji"], answers=answers)
    shown = load_exhibits(run)
    assert set(shown.thumbnails["images"]) == {"1F680", "1F355"}, "the rows of answers come first"
    assert shown.text("captions", "1F355") == "pizza…" and len(shown.texts["captions"]) == 3
    assert "1 not in the data set as it is now; 2 more than a page shows (2)." in shown.notes[0]


def test_the_exhibits_of_several_runs_are_of_the_headline_run(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    make_run(paths[0], "openmoji", groups=EMOJI[:2])
    make_run(paths[1], "openmoji", groups=EMOJI[2:])
    shown = headline_exhibits(load_runs(paths))
    assert set(shown.texts["captions"]) == set(EMOJI[:2])


@pytest.mark.parametrize("entry", DATASETS.values(), ids=list(DATASETS))
def test_a_view_that_a_page_may_show_is_one_of_the_data_set_and_has_a_credit(entry: DatasetEntry) -> None:
    assert set(entry.may_show) <= set(entry.views) and all(entry.may_show.values())
    if "non-commercial" in entry.licence or entry.licence == "yours":
        assert not entry.may_show


def test_the_table_of_the_documentation_says_what_a_page_shows_by_default() -> None:
    text = (Path(__file__).parents[1] / "docs" / "runs.md").read_text(encoding="utf-8")
    rows = text.partition("| data set | shown by default |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    said = {}
    for row in rows:
        names, views = row.strip("| ").split(" | ")
        shown = () if views == "nothing" else tuple(re.findall("`(.+?)`", views))
        said |= dict.fromkeys(re.findall("`(.+?)`", names) or ["folder"], shown)
    assert said == {name: tuple(entry.may_show) for name, entry in DATASETS.items()}


def test_the_command_hands_its_exhibits_to_the_page_and_says_what_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages: list[dict[str, Any]] = []
    monkeypatch.setattr(write, "write_report", lambda _, out, **options: pages.append(options) or out / "index.html")
    run = make_run(tmp_path / "run", "openmoji", groups=EMOJI).path
    report([run], tmp_path / "page", texts=False)
    (shown,) = [page["exhibits"] for page in pages]
    assert len(shown.thumbnails["images"]) == len(EMOJI) and not shown.texts
    report([make_run(tmp_path / "photos", "flickr30k", groups=["1"]).path], tmp_path / "page")
    assert "flickr30k are not shown" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--root DIR"):
        report([tmp_path / "photos"], tmp_path / "page", thumbnails=True, root=tmp_path / "nowhere")
