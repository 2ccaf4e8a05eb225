"""The next command that an error prints works: it names the data set as it is typed, and the same cache."""

import pickle
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands.app import app, main
from featcache.commands.endings import with_cache
from featcache.data.datasets import DATASETS, extract_command
from featcache.data.open import open_dataset
from featcache.data.views import Overlay
from featcache.errors import Damaged, FeatcacheError, FeaturesNotCached, UsageError
from featcache.maintenance.gc import rename
from featcache.store.rows import overlay_name, write_rows
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import NotPaired, RunMissing
from featcache.trainer.run import load_run
from featcache.trainer.run_search import is_run, runs_below
from featcache.trainer.sides import pair_sides
from tests.alignment_cache import store_layers
from tests.spine import tiny_dataset


@pytest.fixture
def stamps(tmp_path: Path) -> Cache:
    """A cache of a folder called stamps, and of openmoji."""
    cache = Cache(tmp_path / "cache")
    for name in ("stamps", "openmoji"):
        dataset = tiny_dataset(20, 1, name=name)
        for view, encoder in (("images", "vit"), ("captions", "lm")):
            rows = len(dataset.views[view])
            store_layers(cache, dataset, view, encoder, {"last.mean": np.ones((rows, 3))})
    return cache


def commands_of(message: str) -> list[list[str]]:
    """The commands that a message prints, as words."""
    lines = [line.partition("Run: ")[2] for line in message.split("\n") if "Run: featcache" in line]
    return [shlex.split(line)[1:] for line in lines]


def check_parses(words: list[str]) -> None:
    """Typer takes the words as a command with its arguments and options."""
    group = typer.main.get_command(app)
    command = group.commands[words[0]]  # pyright: ignore[reportAttributeAccessIssue]
    command.make_context(words[0], list(words[1:]), resilient_parsing=False)


def said(error: type[FeatcacheError], act: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        act()
    return str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "selector", "command"),
    [
        ("stamps", "gpt2", "featcache extract folder:stamps gpt2 --root DIR"),
        ("folder:stamps", "gpt2", "featcache extract folder:stamps gpt2 --root DIR"),
        ("openmoji", "gpt2", "featcache extract openmoji gpt2"),
        ("cifar10", "gpt2", "featcache extract cifar10 gpt2 --root DIR"),
        ("stamps", "vitt", "featcache ls 'stamps/*/vit'"),
        ("stamps", "vit/3.mean", "featcache extract folder:stamps vit --root DIR"),
        ("stamps", "captions/vit", "featcache ls 'stamps/*/vit'"),
        ("stamps", "vit@ffff", "featcache ls 'stamps/*/vit'"),
        ("stamps", "linear-s0-0123abcd", "featcache embed RUN"),
        ("stamp", "vit", "featcache ls stamps"),
        ("stamp", "gpt2", "featcache extract folder:stamps gpt2 --root DIR"),
        ("folder", "vit", "featcache ls"),
    ],
)
def test_what_is_not_cached_is_answered_with_a_command_that_makes_or_finds_it(
    stamps: Cache, dataset: str, selector: str, command: str
) -> None:
    message = said(FeaturesNotCached, lambda: stamps.find(dataset, selector))
    assert message.endswith(f"Run: {command}")
    [words] = commands_of(message)
    check_parses(words)


KNOWN = ("dinov2-base", "dinov2-small", "gpt2", "minilm", "vit-large", "vits")


@pytest.mark.parametrize(
    ("dataset", "selector", "says", "command"),
    [
        ("stamps", "minillm", "There is no encoder minillm; nearest: minilm",
         "featcache extract folder:stamps minilm --root DIR"),
        ("openmoji", "dino", "There is no encoder dino; nearest: dinov2-base, dinov2-small",
         "featcache extract openmoji dinov2-base"),
        ("openmoji", "zzz", "There is no encoder zzz\n", "featcache encoders"),
        ("openmoji", "images/vitt", "Did you mean vit?", "featcache ls 'openmoji/*/vit'"),
        ("openmoji", "vits", "lm/last.mean, vit/last.mean\n", "featcache extract openmoji vits"),
        ("openmoji", "gpt2-random3", "", "featcache extract openmoji gpt2 --random 3"),
        ("stampz", "minillm", "Did you mean stamps?\n  There is no encoder minillm; nearest: minilm",
         "featcache extract folder:stamps minilm --root DIR"),
        ("flickr30", "gpt2", "Did you mean flickr30k?", "featcache extract flickr30k gpt2"),
    ],
)  # fmt: skip
def test_no_command_extracts_an_encoder_that_does_not_exist_and_cached_ones_are_offered_first(
    stamps: Cache, dataset: str, selector: str, says: str, command: str
) -> None:
    with pytest.raises(FeaturesNotCached) as caught:
        stamps.find(dataset, selector)
    error = pickle.loads(pickle.dumps(caught.value))
    message = error.reword(KNOWN)
    assert says in message and message.endswith(f"\n  Run: {command}")
    check_parses(commands_of(message)[0])


@pytest.mark.parametrize(
    ("words", "says", "command"),
    [
        ("align stamps vit minillm", "There is no encoder minillm; nearest: minilm",
         "featcache extract folder:stamps minilm --root DIR --cache {}"),
        ("train stamps vit lm --reference dino", "There is no encoder dino; nearest: dinov2-",
         "featcache extract folder:stamps dinov2-"),
        ("align stampz vit lm", "Did you mean stamps?", "featcache ls stamps --cache {}"),
        ("rm stamps lmm", "Cached for this data set", "featcache ls --cache {}"),
    ],
)  # fmt: skip
def test_the_program_knows_which_encoders_there_are(
    stamps: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, says: str,
    command: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.argv", ["featcache", *words.split(), "--cache", str(stamps.root)])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert says in said and f"Run: {command.format(shlex.quote(str(stamps.root)))}" in said


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("align stamps hf:./m/Tiny.DINO lm", "tiny-dino"),
        ("align stamps vit captions/timm:resnet18.a1_in1k/last.mean", "resnet18-a1_in1k"),
        ("grid stamps hf:org/net@main vit", "org-net"),
        ("train stamps photo=hf:./net lm", "net"),
        ("train stamps vit lm --reference hf:./net#image", "net"),
        ("probe stamps hf:./net/auto", "net"),
        ("map stamps open_clip:ViT-B-32/openai", "vit-b-32-openai"),
        ("show stamps hf:./net", "net"),
        ("rm stamps hf:./net", "net"),
        ("ls stamps/*/hf:./net", "net"),
    ],
)
def test_the_id_of_an_encoder_where_features_are_named_is_answered_with_their_name(
    stamps: Cache, words: str, name: str
) -> None:
    done = CliRunner().invoke(app, [*words.split(), "--cache", str(stamps.root)])
    assert isinstance(done.exception, UsageError), done.output
    assert f"are called {name}\n" in str(done.exception) and "featcache ls" in str(done.exception)


def test_a_folder_is_told_by_the_names_that_it_has_in_the_cache(stamps: Cache, tmp_path: Path) -> None:
    message = said(FeaturesNotCached, lambda: stamps.find("folder", "vit"))
    assert "A folder goes by its own name here: stamps." in message
    message = said(FeaturesNotCached, lambda: Cache(tmp_path / "empty").find("folder", "vit"))
    assert message.endswith("Run: featcache extract folder:NAME ENCODER --root DIR")


def test_the_command_of_every_data_set_opens_that_data_set(tmp_path: Path) -> None:
    from PIL import Image

    for name, entry in DATASETS.items():
        if name != "folder":
            assert extract_command(name).endswith("--root DIR") == entry.needs_root
            check_parses(shlex.split(extract_command(name))[1:])
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "captions.csv").write_text("image,caption\n1.png,a stamp\n")
    words = shlex.split(extract_command("stamps", "minilm"))
    assert open_dataset(words[2], root=tmp_path).name == "stamps"


def test_splits_that_are_lost_or_lacking_name_the_command_that_brings_them(stamps: Cache) -> None:
    images, captions = stamps.load("stamps", "vit"), stamps.load("stamps", "lm")
    bare = [replace(each, splits=np.full(len(each), "", object)) for each in (images, captions)]
    config = FitConfig(epochs=1, k=2)
    message = said(NotPaired, lambda: pair_sides({"a": bare[0], "b": bare[1]}, None, config))
    assert "extract again" in message
    [words] = commands_of(message)
    assert words == ["extract", "folder:stamps", "ENCODER", "--root", "DIR"]
    other = replace(captions, overlay="0" * 64)
    message = said(NotPaired, lambda: pair_sides({"a": images, "b": other}, None, config))
    assert commands_of(message) == [words]


def test_a_group_without_an_entry_among_the_splits_names_the_extraction(stamps: Cache) -> None:
    dataset = tiny_dataset(20, 1, name="stamps")
    few = Overlay(dataset.overlay.groups[:5], dataset.overlay.splits[:5], {})
    write_rows(stamps.folder / "stamps" / "images", dataset.views["images"], few)
    assert (stamps.root / "stamps" / overlay_name(few.root)).exists()
    message = said(Damaged, lambda: stamps.load("stamps", "vit"))
    assert message.endswith("Run: featcache extract folder:stamps vit --root DIR")


def test_a_name_that_is_taken_names_the_command_that_removes_what_is_there(stamps: Cache) -> None:
    message = said(FeatcacheError, lambda: rename(stamps, "stamps/images/vit", "stamps/images/vit"))
    words = shlex.split(message.partition("Remove it first: ")[2])[1:]
    check_parses(words)
    assert [str(array.folder) for array in stamps.select(words[1], words[2])] == [
        str(stamps.find("stamps", "vit").folder)
    ]


@pytest.mark.parametrize(
    ("message", "words", "wanted"),
    [
        ("Run: featcache ls a", "align --cache lab", "Run: featcache ls a --cache lab"),
        ("Run: featcache ls a", "align --cache=lab", "Run: featcache ls a --cache lab"),
        ("Run: featcache ls a", "align", "Run: featcache ls a"),
        ("Run: featcache ls a", "align --cache", "Run: featcache ls a"),
        ("Run: featcache train --help", "report --cache lab", "Run: featcache train --help"),
        ("Run: featcache datasets", "extract --cache lab", "Run: featcache datasets"),
        ("Run: featcache pull R x, or featcache rm y", "extract --cache 'my lab'",
         "Run: featcache pull R x --cache 'my lab', or featcache rm y --cache 'my lab'"),
        ("what featcache wrote\n  Run: featcache verify", "ls --cache lab",
         "what featcache wrote\n  Run: featcache verify --cache lab"),
    ],
)  # fmt: skip
def test_a_printed_command_keeps_the_cache_that_was_named(message: str, words: str, wanted: str) -> None:
    assert with_cache(message, shlex.split(words)) == wanted


# -- runs -------------------------------------------------------------------------------------------------------------


def a_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"config_hash": "x"}')
    return folder


def test_a_folder_of_runs_is_not_called_damaged_but_its_runs_are_named(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / "runs" / path) for path in ("birds/a+b/linear s0", "birds/a+b/mlp-s0", "one")]
    a_run(tmp_path / "runs" / ".one.x.making")
    assert [path for path in runs_below(tmp_path / "runs")] == sorted(runs) and all(map(is_run, runs))
    message = said(RunMissing, lambda: load_run(tmp_path / "runs"))
    assert "is no run, but 3 runs lie below it" in message
    listed = shlex.split(message.partition("Name one or several: ")[2])
    assert [Path(path) for path in listed] == sorted(runs)
    message = said(RunMissing, lambda: load_run(tmp_path / "runs/two"))
    assert "no run at" in message and "Runs beside it: one" in message
    assert "3 runs lie below it" in said(RunMissing, lambda: load_run(tmp_path / "runs"))


def test_a_folder_with_another_tools_config_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "no run at" in said(RunMissing, lambda: load_run(tmp_path))
