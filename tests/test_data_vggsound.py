"""Is the published list of VGGSound read, every clip told by its name, and what is missing counted?"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from featcache import data
from featcache.cache import Cache
from featcache.commands.app import app
from featcache.data.options import OpenOptions
from featcache.data.sound import RATE
from featcache.data.vggsound import find_clips, read_list
from tests import hub
from tests.sounds import container, sound, tone

LIST = """---g-f_I2yQ,1,"people marching",test
--0PQM4-hqg,30,waterfall burbling,train
a_b_7,120,"playing violin, fiddle",train
dead,3,dog barking,train
cut,4,dog barking,train
long,10,dog barking,test
quiet,5,waterfall burbling,train
gone,9,waterfall burbling,train
"""
THERE = ("---g-f_I2yQ_000001", "--0PQM4-hqg_000030", "a_b_7_000120", "cut_000004", "dead_000003", "long_000010",
         "quiet_000005")  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, one with a file of sound besides; sounds that are dead, cut off, too long and silent."""
    root = tmp_path_factory.mktemp("vgg")
    for folder in ("videos", "sounds/deep", ".hidden"):
        (root / folder).mkdir(parents=True)
    (root / "vggsound.csv").write_text(LIST)
    container(root / "videos" / "---g-f_I2yQ_000001.mp4", pitch=600)
    container(root / "videos" / "--0PQM4-hqg_30.webm")
    files = {
        "sounds/--0PQM4-hqg_000030.wav": sound(tone(0.5, pitch=900)),
        "sounds/deep/a_b_7_120.flac": sound(tone(0.4, 44_100, channels=2), 44_100, "FLAC"),
        "sounds/dead_000003.mp3": b"<html>",
        "sounds/cut_000004.wav": sound()[:9_000],
        "sounds/long_000010.ogg": sound(tone(3.0, pitch=300), form="OGG"),
        "sounds/quiet_000005.wav": sound(np.zeros((4_000, 1))),
        "sounds/unlisted_000001.wav": sound(),
        "sounds/theme.mp3": b"",
        "sounds/readme.txt": b"clips",
        ".hidden/gone_000009.wav": sound(),
    }
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


def opened(root: Path, **options: Any) -> data.Dataset:
    return data.open_dataset("vggsound", root=root, options=OpenOptions(**options))


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


# -- views -------------------------------------------------------------------------------------------------------------


def test_clips_are_rows_by_name_with_labels_splits_and_captions_of_the_list(root: Path) -> None:
    dataset = opened(root)
    assert dataset.views["audio"].ids == dataset.views["captions"].ids == dataset.overlay.groups == THERE
    assert dataset.views["images"].ids == dataset.views["images"].groups == THERE[:2]
    assert dataset.views["captions"].read(2) == "playing violin, fiddle" == dataset.overlay.labels["label"][2]
    assert dataset.overlay.splits == ("test", "train", "train", "train", "train", "test", "train")
    assert set(dataset.views) == set(data.DATASETS["vggsound"].views) and dataset.name == "vggsound"
    assert set(dataset.overlay.labels) == set(data.DATASETS["vggsound"].labels)


def test_what_is_missing_strange_or_without_a_picture_is_counted_and_named(root: Path) -> None:
    assert opened(root).notes == (
        "1 listed clip is not there: gone_000009",
        "2 files are no clips of the list: theme.mp3; unlisted_000001",
        "5 clips are sound alone, without a picture: a_b_7_000120; cut_000004; dead_000003",
    )


def test_nothing_is_opened_until_it_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.data.vggsound.read_clip", lambda path: pytest.fail(f"{path} was read"))
    assert len(opened(root).views["audio"]) == len(THERE)


def test_the_sound_is_that_of_the_file_of_sound_and_else_of_the_video(root: Path) -> None:
    audio = opened(root).views["audio"]

    def pitch(row: int) -> float:
        wave = audio.read(row)
        return float(np.fft.rfftfreq(len(wave), 1 / RATE)[np.abs(np.fft.rfft(wave)).argmax()])

    assert [round(pitch(row), -1) for row in (0, 1, 2)] == [600, 900, 440]
    with pytest.raises(data.DataInvalid, match=r"audio row 'dead_000003' \(number 4\): no sound file"):
        audio.read(4)


def level(picture: Any) -> int:
    return picture.getpixel((30, 20))[1]


def test_one_frame_is_the_middle_and_several_are_spaced_evenly_as_rows_of_one_group(root: Path) -> None:
    one, three, five = (opened(root, frames=frames).views["images"] for frames in (1, 3, 5))
    assert three.ids[:4] == (*(f"{THERE[0]}#{number}" for number in range(3)), f"{THERE[1]}#0")
    assert three.groups == (THERE[0],) * 3 + (THERE[1],) * 3 and len(five) == 10
    for view, places in ((one, (1 / 2,)), (three, (1 / 6, 1 / 2, 5 / 6)), (five, (0.1, 0.3, 0.5, 0.7, 0.9))):
        seen = [level(view.read(row)) for row in range(2 * len(places))]
        np.testing.assert_allclose(seen, [255 * place for place in (*places, *places)], atol=24)
    assert one.hashes[0] == three.hashes[1] == five.hashes[2] and len(set(three.hashes)) == 6


def test_another_length_is_another_root_of_audio_and_of_nothing_else(root: Path) -> None:
    long, short = opened(root), opened(root, seconds=1.5)
    assert short.views["audio"].hashes == long.views["audio"].hashes
    assert short.views["audio"].root != long.views["audio"].root
    assert short.views["images"].root == long.views["images"].root and short.overlay.root == long.overlay.root


def test_the_order_of_the_list_and_of_the_folder_change_nothing(root: Path, tmp_path: Path) -> None:
    lines = LIST.splitlines()[::-1]
    (tmp_path / "list.csv").write_text("\ufeffid,start,label,split\n# clips\n" + "\n\n".join(lines), encoding="utf-8")
    for path in (path for path in root.rglob("*_*.*") if ".hidden" not in str(path)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    ours, theirs = opened(tmp_path), opened(root)
    assert [view.root for view in ours.views.values()] == [view.root for view in theirs.views.values()]
    assert ours.overlay.root == theirs.overlay.root


def test_links_to_folders_are_followed_once(root: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").symlink_to(root / "sounds")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "broken_000001.wav").symlink_to(tmp_path / "nowhere")
    assert set(find_clips(tmp_path).sounds) == set(find_clips(root / "sounds").sounds)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "a,1,playing violin, fiddle,train",
            "line 2 has 5 cells; wanted 4: id, start, label, split\n.*stands in quotes",
        ),
        ("a,1,dog", "line 2 has 3 cells"),
        ("a,one,dog,train", "line 2: .*wanted an id, a start in whole seconds, and a label"),
        ("a,-1,dog,train", "line 2: .*wanted an id, a start"),
        (",1,dog,train", "line 2: .*wanted an id"),
        ("a,1,,train", "line 2: .*and a label"),
        ("a,1,dog,holdout", "line 2: unknown split 'holdout'; known: train, test"),
        ("a,1,dog,", "line 2: unknown split ''"),
        ("x,01,dog,train", "line 2: the clip x_000001 stands more than once"),
        ('a,1,"dog,train', "is no CSV in UTF-8"),
    ],
)
def test_a_bad_line_of_the_list_is_named(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "vggsound.csv"
    path.write_text(f"x,1,cat,train\n{line}\n")
    with pytest.raises(data.DataInvalid, match=rf"vggsound.csv {says}"):
        read_list(path)


def test_a_list_of_nothing_or_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vggsound.csv"
    path.write_text("id,start,label,split\n")
    with pytest.raises(data.DataInvalid, match="lists no clip; wanted rows of id, start, label, split"):
        read_list(path)
    path.write_bytes("a,1,café,train\n".encode("latin-1"))
    with pytest.raises(data.DataInvalid, match="is no CSV in UTF-8"):
        read_list(path)


def test_a_root_without_list_without_clips_or_with_a_clip_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(data.DataMissing, match="vggsound: no list of clips\n  Looked at: .*vggsound.csv"):
        opened(tmp_path)
    (tmp_path / "one.csv").write_text("a,1,dog,train\n")
    with pytest.raises(data.DataMissing, match="none of the 1 clips that one.csv lists is there, such as a_000001.mp4"):
        opened(tmp_path)
    (tmp_path / "a_1.wav").write_bytes(sound())
    assert opened(tmp_path).views.keys() == {"captions", "audio"}
    with pytest.raises(data.DataInvalid, match="--frames 2: .* holds no videos, sounds alone"):
        opened(tmp_path, frames=2)
    (tmp_path / "a_000001.flac").write_bytes(sound(form="FLAC"))
    with pytest.raises(data.DataInvalid, match=r"a_000001.flac and .*a_1.wav are the same clip, a_000001\n  Keep one"):
        opened(tmp_path)
    (tmp_path / "two.csv").write_text("a,1,dog,train\n")
    with pytest.raises(data.DataInvalid, match="has one.csv and two.csv; which lists the clips"):
        opened(tmp_path)


def test_options_that_mean_nothing_here_are_refused(root: Path) -> None:
    for options, says in (
        ({"layout": "coco"}, "vggsound takes no --layout"),
        ({"split": "80/10/10", "seed": 1}, "vggsound takes no --split or --seed"),
        ({"frames": 101}, "--frames 101: wanted from 1 to 100"),
        ({"seconds": 601.0}, "--seconds 601: wanted more than 0"),
    ):
        with pytest.raises(data.DataInvalid, match=says):
            opened(root, **options)
    for name in ("openmoji", "cifar10"):
        with pytest.raises(data.DataInvalid, match=f"{name} takes no --seconds or --frames"):
            data.open_dataset(name, root=root, options=OpenOptions(seconds=5.0, frames=2))


# -- through the command -----------------------------------------------------------------------------------------------


def test_dead_clips_stop_the_command_by_name_and_are_skipped_listed_and_dropped_on_demand(
    root: Path, tmp_path: Path
) -> None:
    weights = hub.wav2vec2_repo(tmp_path / "w2v")
    words = ["extract", "vggsound", "wav2vec2-base", "--root", root, "--weights", weights, "--seconds", "2"]
    stopped = run(*words, "--cache", tmp_path / "stopped")
    assert stopped.exit_code == 1 and "row 'cut_000004' (number 3): cut off: it states 16,000" in str(stopped.exception)
    assert "--on-error skip" in str(stopped.exception)
    for workers in ("0", "2"):
        done = run(*words, "--on-error", "skip", "--workers", workers, "--cache", tmp_path / workers)
        out = " ".join(done.output.split())
        assert done.exit_code == 0, out
        assert (
            "2 rows failed and will be dropped when loading: cut_000004: cut off" in out and "dead_000003: no so" in out
        )
        assert "1 recording silent, or nearly so (docs/sound.md): 'quiet_000005'" in out
        assert (
            "1 recording cut at the seconds that are kept (--seconds) or the encoder's window, so that the rest counts"
            in out
        )
        assert "counts for nothing: 'long_000010'" in out and "1 listed clip is not there: gone_000009" in out
    one, other = (Cache(tmp_path / workers).load("vggsound", "wav2vec2-base") for workers in ("0", "2"))
    assert one.ids.tolist() == [name for name in THERE if name not in ("cut_000004", "dead_000003")]
    np.testing.assert_array_equal(one.values, other.values)
    assert one.root == other.root, "how rows are decoded leaves no trace in the bytes"
