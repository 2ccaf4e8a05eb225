"""Do sounds of a folder become rows of the right group: by a column, by their names, as spoken captions, or alone?"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from featcache import data
from featcache.data.options import OpenOptions
from featcache.data.spoken import read_spoken
from tests.own_data import picture
from tests.sounds import sound, tone
from tests.test_data_flickr30k import FILES, folder_layout


def write(root: Path, *names: str) -> Path:
    """Files of these names, each of another content: pictures, sounds, else texts."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".jpg", ".png"):
            path.write_bytes(picture(number, 8))
        else:
            path.write_bytes(sound(tone(0.1, pitch=200 + 50 * number), form=path.suffix[1:].upper()))
    return root


def table(root: Path, rows: list[dict[str, str]], name: str = "captions.csv") -> Path:
    frame, path = pl.DataFrame(rows), root / name
    {".csv": frame.write_csv, ".jsonl": frame.write_ndjson, ".parquet": frame.write_parquet}[path.suffix](path)
    return root


def opened(root: Path, **options: Any) -> data.Dataset:
    return data.open_dataset("folder:mine", root=root, options=OpenOptions(**options))


def groups(dataset: data.Dataset, view: str) -> dict[str, str]:
    return dict(zip(dataset.views[view].ids, dataset.views[view].groups, strict=True))


# -- a column of a table -----------------------------------------------------------------------------------------------

ROWS = [
    {"image": "a.jpg", "caption": "a bell", "audio": "snd/x.wav", "group": "g"},
    {"image": "a.jpg", "caption": "bells", "audio": "snd/x.wav", "group": "g"},
    {"image": "b.jpg", "caption": "a dog", "audio": "y.flac", "group": "b"},
    {"image": "c.png", "caption": "silence", "audio": "", "group": "c"},
]


@pytest.mark.parametrize("name", ["captions.csv", "metadata.jsonl", "captions.parquet"])
def test_a_table_of_images_captions_and_sounds_gives_three_views_of_the_same_groups(name: str, tmp_path: Path) -> None:
    root = write(tmp_path, "a.jpg", "b.jpg", "c.png", "snd/x.wav", "snd/y.flac", "snd/z.mp3")
    dataset = opened(table(root, ROWS, name))
    assert list(dataset.views) == ["images", "captions", "audio"]
    assert groups(dataset, "audio") == {"snd/x.wav": "g", "snd/y.flac": "b"}
    assert dataset.overlay.groups == ("g", "b", "c") and dataset.views["captions"].groups == ("g", "g", "b", "c")
    assert dataset.views["audio"].content(1) == (root / "snd" / "y.flac").read_bytes()
    assert "1 sound file belongs to no image: snd/z.mp3" in dataset.notes
    assert f"{name}: 1 names lack the folder of their sound, as 'y.flac' for 'snd/y.flac'" in dataset.notes


@pytest.mark.parametrize("column", ["audio_path", "Audio", "wav"])
def test_the_column_has_the_names_of_other_tools(column: str, tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "x.wav")
    assert groups(opened(table(tmp_path, [{"file_name": "a.jpg", column: "x.wav"}])), "audio") == {"x.wav": "a.jpg"}


def test_frames_of_one_group_may_share_a_sound_and_images_of_two_may_not(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b.jpg", "x.wav")
    rows = [{"image": f"{name}.jpg", "audio": "x.wav", "group": "clip"} for name in "ab"]
    assert groups(opened(table(tmp_path, rows)), "audio") == {"x.wav": "clip"}
    rows[1]["group"] = "other"
    with pytest.raises(
        data.DataInvalid, match=r"captions.csv line 3 .*'x.wav' is the sound of 'a.jpg' before, which is"
    ):
        opened(table(tmp_path, rows))


def test_a_sound_that_is_not_there_is_refused_by_its_line_or_left_out_where_that_is_allowed(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b.jpg", "one.wav")
    table(tmp_path, [{"image": "a.jpg", "audio": "one.wav"}, {"image": "b.jpg", "audio": "won.wav"}])
    with pytest.raises(
        data.DataMissing, match=r"line 3 .*no such sound below the folder; nearest: 'one.wav'\n.*\n.*sound's"
    ):
        opened(tmp_path)
    dataset = opened(tmp_path, allow_missing=True)
    assert "captions.csv: 1 sound is not there and left out (--allow-missing), the first won.wav" in dataset.notes
    assert dataset.views["audio"].ids == ("one.wav",) and len(dataset.views["images"]) == 2
    (tmp_path / "one.wav").unlink()
    with pytest.raises(data.DataMissing, match="no such sound below the folder, nor for 1 more"):
        opened(tmp_path)


# -- sounds alone ------------------------------------------------------------------------------------------------------


def test_a_folder_of_sounds_alone_is_an_audio_view_with_its_folders_as_classes_and_splits(tmp_path: Path) -> None:
    names = [
        f"{split}/{kind}/{number}.wav" for split in ("train", "test") for kind in ("dog", "cat") for number in "12"
    ]
    dataset = opened(write(tmp_path, *names, ".hidden/x.wav"))
    assert list(dataset.views) == ["audio"] and dataset.views["audio"].ids == tuple(sorted(names))
    assert set(dataset.overlay.labels["category"]) == {"dog", "cat"} and set(dataset.overlay.splits) == {
        "train",
        "test",
    }
    assert dataset.source == "folder of class folders"
    assert "no captions: the data set has sounds alone" in dataset.notes
    wave = dataset.views["audio"].read(0)
    assert wave.dtype == np.float32 and wave.shape == (1600,)


@pytest.mark.parametrize("column", ["audio", "file_name"])
def test_sounds_with_captions_need_no_image(column: str, tmp_path: Path) -> None:
    write(tmp_path, "x.wav", "y.ogg")
    rows = [
        {column: "x.wav", "caption": "rain"},
        {column: "x.wav", "caption": "drops"},
        {column: "y", "caption": "a car"},
    ]
    dataset = opened(table(tmp_path, rows, "metadata.csv"))
    assert list(dataset.views) == ["audio", "captions"]
    assert groups(dataset, "captions") == {"x.wav#0": "x.wav", "x.wav#1": "x.wav", "y.ogg#0": "y.ogg"}


def test_a_table_of_sounds_leaves_pictures_aside_and_says_so(tmp_path: Path) -> None:
    write(tmp_path, "x.wav", "cover.jpg")
    dataset = opened(table(tmp_path, [{"audio": "x.wav", "caption": "rain"}]))
    assert list(dataset.views) == ["audio", "captions"]
    assert "1 image is not read, for the caption file names sounds alone: cover.jpg" in dataset.notes
    (tmp_path / "x.wav").unlink()
    with pytest.raises(data.DataMissing, match="captions.csv has no column image, and there is no sound"):
        opened(tmp_path)


def test_texts_beside_sounds_are_their_captions(tmp_path: Path) -> None:
    write(tmp_path, "x.wav", "y.wav")
    (tmp_path / "x.txt").write_text("rain\ndrops\n")
    dataset = opened(tmp_path)
    assert dataset.views["captions"].ids == ("x.wav#0", "x.wav#1")
    assert "1 sound has no caption, the first y.wav" in dataset.notes


def test_seconds_hold_for_a_folder_and_frames_do_not(tmp_path: Path) -> None:
    write(tmp_path, "x.wav")
    assert len(opened(tmp_path, seconds=0.05).views["audio"].read(0)) == 800
    with pytest.raises(data.DataInvalid, match="--frames 3: of videos alone several are taken, and none is read here"):
        opened(tmp_path, frames=3)


def test_a_link_to_a_sound_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "in/x.wav", "out.wav")
    (tmp_path / "in" / "link.wav").symlink_to(tmp_path / "out.wav")
    with pytest.raises(data.DataInvalid, match="'link.wav' is a link that leads out"):
        opened(tmp_path / "in")


# -- sounds called like images, and spoken captions --------------------------------------------------------------------


def test_a_sound_called_like_an_image_is_its_sound_and_others_are_counted(tmp_path: Path) -> None:
    dataset = opened(write(tmp_path, "p/1.jpg", "p/2.jpg", "p/2.png", "p/1.wav", "p/2.wav", "1.wav"))
    assert groups(dataset, "audio") == {"p/1.wav": "p/1.jpg"}
    assert "2 sound files belong to no image: 1.wav; p/2.wav" in dataset.notes, "2.wav fits two"


def test_spoken_captions_have_the_ids_of_written_ones_and_the_groups_of_their_photos(tmp_path: Path) -> None:
    write(tmp_path, "a_b.jpg", "p/c.png", "d.jpg", "spoken/p/c_1.flac", "spoken/c.ogg", "spoken/a_b_0.wav",
          "spoken/a_b.jpg_10.mp3", "spoken/a_b_2.wav", "spoken/who_0.wav", "spoken/.x_0.wav")  # fmt: skip
    rows = [
        {"image": image, "caption": text, "group": f"g{image}"} for image in ("a_b.jpg", "p/c.png") for text in "xyz"
    ]
    dataset = opened(table(tmp_path, rows))
    assert list(dataset.views) == ["images", "captions", "spoken"]
    assert groups(dataset, "spoken") == {
        "a_b.jpg#0": "ga_b.jpg", "a_b.jpg#2": "ga_b.jpg", "a_b.jpg#10": "ga_b.jpg", "p/c.png#0": "gp/c.png",
        "p/c.png#1": "gp/c.png",
    }  # fmt: skip
    assert groups(dataset, "captions")["a_b.jpg#2"] == "ga_b.jpg"
    assert "1 file of spoken/ belongs to no photo: who_0.wav" in dataset.notes
    assert dataset.views["spoken"].content(0) == (tmp_path / "spoken" / "a_b_0.wav").read_bytes()


@pytest.mark.parametrize(
    ("photos", "clips", "says"),
    [
        (
            ["a.jpg", "a_1.jpg"],
            ["a_1.wav"],
            r"a_1.wav may belong to a_1.jpg and to a.jpg\n.*a_1.jpg_0.wav or a.jpg_1.wav",
        ),
        (["p/a.jpg", "q/a.jpg"], ["a_0.wav"], "a_0.wav may belong to"),
        (["a.jpg"], ["a.wav", "a_0.flac"], "a.wav and a_0.flac are the same clip, number 0 of a.jpg"),
        (
            ["a.jpg"],
            ["b_0.wav", "c.wav"],
            "none of 2 sound files is called after a photo, the first b_0.wav\n.*a_0.wav",
        ),
    ],
)
def test_a_clip_that_fits_two_photos_or_none_is_refused(
    photos: list[str], clips: list[str], says: str, tmp_path: Path
) -> None:
    write(tmp_path, *clips)
    with pytest.raises(data.DataInvalid, match=says):
        read_spoken(tmp_path, photos)


def test_the_remedy_for_a_clip_that_fits_two_photos_is_one(tmp_path: Path) -> None:
    write(tmp_path, "a_1.jpg_0.wav", "a.jpg_1.wav", "p/a_1.wav")
    clips, notes = read_spoken(tmp_path, ["a.jpg", "a_1.jpg", "p/a.jpg"])
    assert [clip.row_id for clip in clips] == ["a.jpg#1", "a_1.jpg#0", "p/a.jpg#1"] and notes == []


def test_flickr30k_takes_spoken_captions_from_its_root(tmp_path: Path) -> None:
    root = folder_layout(tmp_path)
    plain = data.open_dataset("flickr30k", root=root)
    write(root, "spoken/1000092795_0.wav", "spoken/10002456_4.wav", "spoken/1000092795_3.wav", "spoken/7_0.wav")
    dataset = data.open_dataset("flickr30k", root=root, options=OpenOptions(seconds=0.05))
    assert groups(dataset, "spoken") == {
        "10002456.jpg#4": "10002456", "1000092795.jpg#0": "1000092795", "1000092795.jpg#3": "1000092795",
    }  # fmt: skip
    assert set(dataset.views["spoken"].ids) < set(dataset.views["captions"].ids) and len(FILES) == 5
    assert dataset.notes[-1] == "1 file of spoken/ belongs to no photo: 7_0.wav"
    assert dataset.views["spoken"].read(0).shape == (800,)
    assert {name: view.root for name, view in plain.views.items()} == {
        name: view.root for name, view in dataset.views.items() if name != "spoken"
    }
