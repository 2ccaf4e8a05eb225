"""After an edited caption or an added image, does every command use what was extracted last, and say so?"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.cache import Cache
from featcache.data.open import open_dataset
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.extraction.extract import extract as extract_job
from featcache.extraction.failed_rows import RowSettings
from featcache.extraction.job import plan_job
from featcache.store.current import set_current
from tests import hub
from tests.test_cli import featcache

ROWS = 24
PAIR = ("resnet18", "gpt2")
CACHE = ("--cache", "cache")


def write_birds(folder: Path, rows: int = ROWS, *, edited: int | None = None) -> None:
    folder.mkdir(exist_ok=True)
    lines = ["image,caption,split"]
    for row in range(rows):
        pixels = np.random.default_rng(row).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{row:02}.png")
        caption = "quite another bird" if row == edited else f"{'a dog and ' * (row % 5)}number {row}"
        lines.append(f"{row:02}.png,{caption},{('train', 'train', 'validation', 'test')[row % 4]}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")


def extract(home: Path, encoder: str, cache: str = "cache") -> None:
    """As `typed_extract`, in this process."""
    options = EncodeOptions(weights=home / encoder)
    birds = open_dataset("folder:birds", root=home / "birds")
    job = plan_job(Cache(home / cache), birds, encoder_spec(encoder), options, layers=["last.mean"])
    extract_job(Cache(home / cache), job, settings=RowSettings(workers=0))


def typed_extract(home: Path, encoder: str) -> str:
    """What the command says on stderr."""
    words = ("--root", "birds", "--weights", encoder, "--layers", "last.mean", "--workers", "0", *CACHE)
    done = featcache("extract", "folder:birds", encoder, *words, cwd=home)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: birds, two tiny encoders, and a cache of both over all birds."""
    home = tmp_path_factory.mktemp("home")
    hub.timm_repo(home / "resnet18", "resnet18.a1_in1k", size=64)
    hub.gpt2_repo(home / "gpt2")
    write_birds(home / "birds")
    for encoder in PAIR:
        extract(home, encoder)
    return home


@pytest.fixture
def home(extracted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(extracted, tmp_path / "home"))


@pytest.fixture(scope="module")
def edited(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after one caption was edited and the captions were extracted again; `fresh` holds nothing older."""
    home = Path(shutil.copytree(extracted, tmp_path_factory.mktemp("edited") / "home"))
    write_birds(home / "birds", edited=7)
    extract(home, "gpt2")
    for encoder in PAIR:
        extract(home, encoder, "fresh")
    return home


def scores(home: Path, *words: str, cache: str = "cache") -> tuple[list[float], str]:
    done = featcache("align", "birds", *words, "--k", "3", "--json", "--cache", cache, cwd=home)
    assert done.returncode == 0, done.stderr
    return [row["value"] for row in json.loads(done.stdout)["alignment"]], done.stderr


def digests(home: Path) -> dict[str, str]:
    """State of each gpt2 array -> its digest."""
    return {entry.rows: entry.digest for entry in Cache(home / "cache").entries("birds/captions/gpt2")}


def test_after_an_edited_caption_the_next_align_has_the_score_of_a_fresh_cache_and_says_what_it_used(
    edited: Path,
) -> None:
    values, err = scores(edited, *PAIR)
    wanted, silent = scores(edited, *PAIR, cache="fresh")
    known = digests(edited)
    assert values == wanted and silent == ""
    assert f"using captions/gpt2/last.mean@{known['current'][:12]} of 20" in err
    assert "of the current 24 rows; an older one of 24 rows, 20" in err and f"is @{known['older'][:12]}" in err
    assert err.count("\n") == 1, "one notice, in one line"
    older, silent = scores(edited, "resnet18", f"gpt2@{known['older'][:12]}")
    assert older != values and silent == ""


@pytest.mark.parametrize(
    "words",
    [
        ("grid", "birds", *PAIR, "--k", "3"),
        ("curve", "birds", *PAIR, "--k", "3", "--sizes", "24"),
        ("ceiling", "birds", "gpt2", "gpt2", "resnet18", "--k", "3"),
        ("show", "birds", "gpt2"),
        ("export", "birds", "gpt2", "new.npz", "--overwrite"),
        ("train", "birds", *PAIR, "--reference", "none", "--epochs", "1", "--k", "2", "--width", "4", "--overwrite"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_uses_the_current_array_and_says_so(edited: Path, words: tuple[str, ...]) -> None:
    done = featcache(*words, *CACHE, cwd=edited)
    assert done.returncode == 0, done.stderr
    assert f"using captions/gpt2/last.mean@{digests(edited)['current'][:12]}" in done.stderr
    assert "using" not in done.stdout


def test_ls_and_show_mark_the_current_and_the_older_array(edited: Path) -> None:
    listed, known = featcache("ls", "birds/captions/gpt2", *CACHE, cwd=edited), digests(edited)
    states = {line.split()[1]: line for line in listed.stdout.splitlines() if line.startswith("birds/")}
    assert "complete, current rows" in states[known["current"][:8]]
    assert "complete, older rows" in states[known["older"][:8]]
    for state, digest in known.items():
        shown = featcache("show", "birds", f"gpt2@{digest}", *CACHE, cwd=edited)
        assert json.JSONDecoder().raw_decode(shown.stdout)[0]["rows"] == state


def test_an_extraction_of_images_alone_names_the_captions_that_changed(home: Path) -> None:
    write_birds(home / "birds", edited=7)
    err = " ".join(typed_extract(home, "resnet18").split())
    assert "birds/captions/gpt2" in err and "Run: featcache extract folder:birds gpt2 --root birds" in err
    cut = "gpt2: max_tokens is 1,024 in its entry, and the network has 64 positions: longer texts are cut there\n"
    assert typed_extract(home, "gpt2") == cut


def test_after_an_added_image_the_new_arrays_are_used_and_what_was_not_extracted_again_is_refused(home: Path) -> None:
    write_birds(home / "birds", ROWS + 1)
    extract(home, "resnet18")
    done = featcache("align", "birds", *PAIR, "--k", "3", "--json", *CACHE, cwd=home)
    assert done.returncode == 0 and "of the current 25 rows; an older one of 24 rows" in done.stderr
    assert "1 of 25 groups of resnet18/last.mean (images) have no partner" in " ".join(done.stdout.split())
    older = Cache(home / "cache").find("birds", "captions/gpt2")
    set_current(older.folder.parent.parent.parent, "0" * 64, 25)  # as if another text encoder had been extracted
    refused = featcache("align", "birds", *PAIR, "--k", "3", *CACHE, cwd=home)
    assert refused.returncode == 1 and refused.stdout == "" and "Traceback" not in refused.stderr
    assert "OutdatedRows: gpt2 for birds is complete only of older rows" in refused.stderr
    assert "Run: featcache extract folder:birds gpt2 --root DIR" in refused.stderr
    assert f"To use the older rows all the same: captions/gpt2/last.mean@{older.digest[:12]}" in refused.stderr


def test_a_run_keeps_the_rows_that_it_was_trained_on_and_embed_says_which(home: Path) -> None:
    words = ("--reference", "none", "--epochs", "1", "--k", "2", "--width", "4", "--out", "run", *CACHE)
    assert featcache("train", "birds", *PAIR, *words, cwd=home).returncode == 0
    before = featcache("embed", "run", *CACHE, cwd=home)
    assert before.returncode == 0 and before.stderr == ""
    old = digests(home)["current"]
    write_birds(home / "birds", edited=7)
    extract(home, "gpt2")
    after = featcache("embed", "run", *CACHE, cwd=home)
    assert after.returncode == 0 and after.stdout == before.stdout
    assert f"captions/gpt2/last.mean@{old[:12]}, 24 older rows, 20" in after.stderr and "train again" in after.stderr
    assert "images" not in after.stderr
    listed = featcache("gc", *CACHE, cwd=home)
    assert "superseded by current ones, stay" in listed.stdout and "featcache gc --superseded" in listed.stdout
    superseded = featcache("gc", "--superseded", *CACHE, cwd=home)
    assert f"birds/captions/gpt2/last.mean@{old[:12]}" in superseded.stdout
    assert "24 older rows" in superseded.stdout and "can go" in superseded.stdout
    assert digests(home).keys() == {"older", "current"}, "nothing was deleted"
    gone = featcache("gc", "--superseded", "--delete", *CACHE, cwd=home)
    assert gone.returncode == 0 and "Deleted" in gone.stdout
    assert digests(home).keys() == {"current"}
    lost = featcache("embed", "run", *CACHE, cwd=home)
    assert lost.returncode == 1 and "FeaturesNotCached" in lost.stderr


def test_a_torn_record_is_one_error_with_its_remedy_and_no_traceback(home: Path) -> None:
    path = home / "cache/birds/captions/current.json"
    path.write_bytes(path.read_bytes()[:20])
    done = featcache("align", "birds", *PAIR, "--k", "3", *CACHE, cwd=home)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Damaged" in done.stderr and "current.json" in done.stderr and "featcache extract again" in done.stderr
    found = featcache("verify", *CACHE, cwd=home)
    assert found.returncode == 1 and "birds/captions: current.json" in found.stdout
    extract(home, "gpt2")
    assert scores(home, *PAIR)[1] == ""


def test_a_push_names_records_that_contradict_each_other_and_changes_neither(home: Path) -> None:
    assert featcache("push", "remote", *CACHE, cwd=home).returncode == 0
    write_birds(home / "birds", edited=7)
    extract(home, "gpt2", "remote")
    write_birds(home / "birds", edited=8)
    extract(home, "gpt2")
    before = [(home / place / "birds/captions/current.json").read_bytes() for place in ("cache", "remote")]
    done = featcache("push", "remote", *CACHE, cwd=home)
    assert done.returncode == 0 and "Current rows of birds/captions differ" in done.stderr
    after = [(home / place / "birds/captions/current.json").read_bytes() for place in ("cache", "remote")]
    assert after == before
    assert featcache("push", "remote", "--prefer", "local", *CACHE, cwd=home).returncode == 0
    assert (home / "remote/birds/captions/current.json").read_bytes() == before[0]
