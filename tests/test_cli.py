"""Does one whole job work when typed, and does bad input get a clear message and leave what was there?"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from featcache.trainer.run_files import FILES, MANIFEST
from tests.cli_page import command_names
from tests.spine import tiny_cache
from tests.typed import typed

ROOT = Path(__file__).parents[1]
PAIR = ("minilm", "efficientnet-lite0")
ENCODER_LIBRARIES = ("timm", "transformers", "torchvision", "PIL", "sentence_transformers")
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ENCODER_LIBRARIES!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Block())
sys.argv = ["featcache", *sys.argv[1:]]
from featcache.commands.app import main
main()
"""


def featcache(*words: str | Path, cwd: Path, blocked: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}
    if not blocked:
        return typed(*words, cwd=cwd, environment=environment)
    return subprocess.run(
        [sys.executable, "-c", BLOCK, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small cache and one trained run, made without any encoder library and without the data set."""
    folder = tmp_path_factory.mktemp("job")
    tiny_cache(folder)
    done = featcache("train", "--cache", "cache", "--epochs", "3", "--batch", "32", cwd=folder, blocked=True)
    assert done.returncode == 0, done.stderr
    return folder


def run_folder(job: Path) -> Path:
    return next(job.glob("runs/openmoji/*/linear-s0*"))


def test_training_needs_neither_encoder_libraries_nor_the_data_set_and_says_what_it_trained(job: Path) -> None:
    assert (run_folder(job) / "metrics.parquet").is_file()
    again = featcache("train", "--cache", "cache", "--epochs", "3", "--batch", "32", cwd=job, blocked=True)
    assert again.returncode == 0, again.stderr
    assert "openmoji: efficientnet-lite0/last.mean (images) + minilm/last.mean (captions)" in again.stdout
    assert "was there already" in again.stdout


def test_another_run_is_not_overwritten_unasked(job: Path) -> None:
    before = (run_folder(job) / "config.json").read_bytes()
    other = featcache("train", "--cache", "cache", "--epochs", "2", "--out", run_folder(job), cwd=job)
    assert other.returncode == 2
    assert "RunExists" in other.stderr and "epochs" in other.stderr and "--overwrite" in other.stderr
    assert (run_folder(job) / "config.json").read_bytes() == before


def test_align_reports_n_k_chance_and_null_as_table_and_as_json(job: Path) -> None:
    words = ("align", "openmoji", "efficientnet-lite0", "minilm", "--cache", "cache")
    table = featcache(*words, cwd=job, blocked=True)
    assert table.returncode == 0, table.stderr
    assert "mutual_knn" in table.stdout and "chance" in table.stdout and "160" in table.stdout
    found = json.loads(featcache(*words, "--json", cwd=job).stdout)
    scores = {row["metric"]: row for row in found["alignment"]}
    assert scores["mutual_knn"]["n"] == 160 and scores["mutual_knn"]["k"] == 10
    for row in scores.values():
        assert row["null_low"] <= row["chance"] <= row["null_high"] < row["value"]
        assert row["p"] < 0.05


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_one_flipped_bit_in_any_file_of_a_run_is_named_by_verify_report_and_embed(
    name: str, job: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(run_folder(job), tmp_path / "run")
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)
    for command in (("verify", run), ("report", run, "--out", "page"), ("embed", run, "--cache", job / "cache")):
        done = featcache(*command, cwd=tmp_path)
        assert done.returncode == 1 and "Traceback" not in done.stderr, command
        assert name in done.stdout + done.stderr or name == MANIFEST
    assert not (tmp_path / "page").exists()


def test_embed_caches_both_sides_and_align_finds_them_closer(job: Path) -> None:
    done = featcache("embed", run_folder(job), "--cache", "cache", cwd=job, blocked=True)
    assert done.returncode == 0, done.stderr
    name = done.stdout.split("/")[2]
    listed = json.loads(featcache("ls", "--json", "--cache", "cache", cwd=job).stdout)
    embedded = [entry for entry in listed if entry["encoder"] == name]
    assert {entry["layer"] for entry in embedded} == {"adapted.images", "adapted.captions"}
    assert {entry["n"] for entry in embedded} == {160, 800}

    def score(x: str, y: str) -> float:
        words = ("align", "openmoji", x, y, "--cache", "cache", "--json", "--split", "test")
        return json.loads(featcache(*words, "--k", "5", cwd=job).stdout)["alignment"][0]["value"]

    assert score(f"{name}/adapted.images", f"{name}/adapted.captions") > 0.3


def test_report_draws_a_page_from_the_run_alone(job: Path) -> None:
    done = featcache("report", run_folder(job), "--out", "page", cwd=job, blocked=True)
    assert done.returncode == 0, done.stderr
    assert "<html" in (job / "page/index.html").read_text(encoding="utf-8")
    assert list((job / "page/figures").glob("*.png"))


def test_ls_show_verify_and_rm_work_on_the_cache_alone(job: Path, tmp_path: Path) -> None:
    shutil.copytree(job / "cache", tmp_path / "cache")
    assert "efficientnet-lite2/last.mean" in featcache("ls", "--cache", "cache", cwd=tmp_path, blocked=True).stdout
    key = json.loads(featcache("show", "openmoji", "minilm", "--json", "--cache", "cache", cwd=tmp_path).stdout)
    assert key["names"]["encoder"] == "minilm" and len(key["root"]) == 32
    differs = featcache("show", "openmoji", "minilm", "efficientnet-lite0", "--json", "--cache", "cache", cwd=tmp_path)
    assert {"binds.d", "names.encoder", "root"} <= json.loads(differs.stdout).keys()
    assert "every byte is as recorded" in featcache("verify", "--cache", "cache", cwd=tmp_path).stdout
    chunk = next((tmp_path / "cache/openmoji/captions/minilm").rglob("c.0.0"))
    flipped = bytearray(chunk.read_bytes())
    flipped[100] ^= 1
    chunk.write_bytes(flipped)
    found = featcache("verify", "--cache", "cache", "--json", cwd=tmp_path)
    assert found.returncode == 1
    [problem] = json.loads(found.stdout)
    assert "minilm/last.mean" in problem["where"] and "chunk 0" in problem["what"]
    refused = featcache("align", "openmoji", "minilm", "efficientnet-lite0", "--cache", "cache", cwd=tmp_path)
    assert refused.returncode == 1 and "Damaged: chunk 0" in refused.stderr
    dry = featcache("rm", "openmoji", "minilm", "--dry-run", "--cache", "cache", cwd=tmp_path)
    assert chunk.exists() and "Nothing was deleted" in dry.stdout
    assert featcache("rm", "openmoji", "minilm", "--yes", "--cache", "cache", cwd=tmp_path).returncode == 0
    assert not chunk.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("extract", "openmojj", "minilm"), ("UnknownDataset", "openmoji")),
        (("extract", "openmoji", "minilmm"), ("UnknownEncoder", "minilm")),
        (("extract", "openmoji", "minilm", "--view", "imagez"), ("UsageError", "it has images, captions")),
        (("extract", "openmoji", "minilm", "--layers", "99"), ("UsageError", "no layer '99'")),
        (("extract", "openmoji", "minilm", "--weights", "nowhere"), ("Weights", "nowhere")),
        (("extract", "openmoji", "gpt2"), ("WeightsMissing", "--weights DIR")),
        (("extract", "flickr30k", "minilm"), ("DataMissing", "--root")),
        (("extract", "cifar10", "minilm"), ("DataMissing", "--root")),
        (("train", "openmoji", "--x", "gpt2", "--cache", "cache"), ("FeaturesNotCached", "extract openmoji gpt2")),
        (("train", "nosuch", "--cache", "cache"), ("FeaturesNotCached", "no features of nosuch", "openmoji")),
        (("train", "--epochs", "0", "--cache", "cache"), ("UsageError", "epochs = 0")),
        (("train", "--device", "cuda:9", "--cache", "cache", "--out", "z"), ("UsageError", "cuda:9")),
        (("train", "--cache", "nowhere"), ("UsageError", "there is no cache at nowhere")),
        (("align", "openmoji", "a/b/c/d", "minilm", "--cache", "cache"), ("UsageError", "not of the form")),
        (("align", "openmoji", *PAIR, "--k", "160", "--cache", "cache"), ("TooFewRows", "160")),
        (("align", "openmoji", *PAIR, "--split", "dev", "--cache", "cache"), ("NotPaired", "'dev'")),
        (("embed", "nowhere", "--cache", "cache"), ("RunMissing", "nowhere")),
        (("report", "nowhere"), ("RunMissing", "nowhere")),
        (("show", "openmoji", "minilm@ffff", "--cache", "cache"), ("FeaturesNotCached", "minilm")),
        (("rm", "openmoji", "../..", "--cache", "cache"), ("UsageError", "not of the form")),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_message_and_an_exit_code_that_says_whose_fault_it_is(
    job: Path, tmp_path: Path, words: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    if "cache" in words:
        shutil.copytree(job / "cache", tmp_path / "cache")
    before = _files(tmp_path)
    extra = ("--cache", "made") if words[0] == "extract" else ()
    done = featcache(*words, *extra, cwd=tmp_path)
    wrong_request = expected[0] in ("UnknownDataset", "UnknownEncoder", "UsageError", "NotPaired")
    assert done.returncode == (2 if wrong_request else 1), done.stdout + done.stderr
    for part in expected:
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert _files(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [("extract", "openmoji", "minilm", "--dtype", "int8"), ("train", "--adapter", "lora"), ("align", "openmoji")],
)
def test_a_wrong_option_or_a_missing_argument_is_exit_code_2(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = featcache(*words, cwd=tmp_path)
    assert done.returncode == 2 and "Usage: featcache" in done.stderr


def _files(folder: Path) -> list[str]:
    """Everything in a folder but what is only remembered: encoder cards, arrays found whole."""
    memory = ("made/.encoders", "/made", "/.verified")
    found = (str(path) for path in folder.rglob("*"))
    return sorted(path for path in found if not any(path.endswith(m) or f"{m}/" in path for m in memory))


def test_a_truncated_photo_stops_the_extraction_with_its_id_and_the_next_run_goes_on(tmp_path: Path) -> None:
    photos = tmp_path / "birds"
    photos.mkdir()
    lines = ["image,caption"]
    for number in range(6):
        Image.new("RGB", (40, 40), (40 * number, 0, 0)).save(photos / f"{number}.jpg", quality=95)
        lines.append(f"{number}.jpg,a red square of shade {number}")
    (photos / "captions.csv").write_text("\n".join(lines))
    whole = (photos / "4.jpg").read_bytes()
    (photos / "4.jpg").write_bytes(whole[: len(whole) // 2])
    words = ("extract", "folder", "efficientnet-lite0", "--root", "birds", "--cache", "cache", "--layers", "last")
    done = featcache(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "ExtractionFailed" in done.stderr and "'4" in done.stderr and "Traceback" not in done.stderr
    missing = featcache("align", "birds", "efficientnet-lite0", "efficientnet-lite0", "--cache", "cache", cwd=tmp_path)
    assert missing.returncode == 1 and "The cache is empty" in missing.stderr, "nothing half-done stays"
    (photos / "4.jpg").write_bytes(whole)
    assert featcache(*words, cwd=tmp_path).returncode == 0


def test_help_of_every_command_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "polars", "timm", "transformers", "zarr", "faiss", "altair", "PIL")
    code = (
        "import sys, json\nfrom typer.testing import CliRunner\nfrom featcache.commands.app import app\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    assert CliRunner().invoke(app, [*name.split(), '--help']).exit_code == 0, name\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, json.dumps(command_names())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_dry_run_computes_and_writes_no_array(tmp_path: Path) -> None:
    done = featcache("extract", "openmoji", "minilm", "--dry-run", "--cache", "cache", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Nothing was written" in done.stdout and "1,176 of 1,176" in done.stdout
    assert not list((tmp_path / "cache").glob("openmoji/**/c.*"))
