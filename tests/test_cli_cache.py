"""Does every command work on a cache when typed, and does every mistake get one clear message that changes nothing?"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli_page import command_names
from tests.spine import tiny_cache
from tests.test_cli import featcache

# commands of the study: tests/test_cli.py, tests/test_demo.py, tests/test_cli_alignment.py,
# tests/test_experiments_sweep.py, tests/test_ledger.py, tests/test_studies_competence.py, tests/test_cost.py,
# tests/test_downstream_probe.py, tests/test_downstream_heads.py, tests/test_cli_emergence.py, tests/test_advise.py,
# tests/test_encoders_user_file.py, tests/test_runs_listed.py, tests/test_maps.py
SWEPT_ELSEWHERE = {
    "demo", "datasets", "encoders", "train", "embed", "align", "grid", "curve", "ceiling", "report", "sweep", "ledger",
    "competence", "cost", "probe", "heads", "emergence", "advise", "encoders add", "runs", "map", "sample",
}  # fmt: skip

FILED = ("--dataset", "openmoji", "--encoder", "mine")

# command -> words of a run that ends well, and what it says
GOOD: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "extract": (("extract", "openmoji", "minilm", "--dry-run"), ("1,176", "Nothing was written (--dry-run)")),
    "ls": (("ls", "openmoji/*/minilm"), ("openmoji/captions/minilm/last.mean", "complete", "1 array, ")),
    "show": (("show", "openmoji", "minilm"), ('"encoder": "minilm"', '"root"')),
    "du": (("du", "openmoji"), ("openmoji/images/efficientnet-lite0", "records")),
    "verify": (("verify", "--deep"), ("3 arrays in cache: every byte is as recorded",)),
    "repair": (("repair",), ("nothing to mend",)),
    "rm": (("rm", "openmoji", "min*", "--yes"), ("openmoji/captions/minilm/last.mean", "Deleted.")),
    "mv": (("mv", "openmoji", "emoji"), ("emoji/captions/minilm/last.mean", "3 arrays")),
    "gc": (("gc",), ("Nothing lies about in cache",)),
    "doctor": (("doctor", "./other"), ("conditional put holds", "permissions")),
    "push": (("push", "other", "openmoji/images"), ("cache to other: 2 arrays", "chunks")),
    "pull": (("pull", "./colleague", "openmoji/captions"), ("colleague to cache: 0 arrays", "1 there already")),
    "sync": (("sync", "./colleague"), ("colleague to cache", "cache to colleague", "3 there already")),
    "export": (("export", "openmoji", "minilm", "made.npz"), ("Wrote made.npz",)),
    "import": (
        ("import", "mine.npy", *FILED, "--ids", "ids.txt", "--layer", "last.mean"),
        ("openmoji/images/mine/last.mean", "160", "complete"),
    ),
}  # fmt: skip

# command, words after it, exit code, what the message says: what was wanted, where, what there is, what to do
BAD: list[tuple[str, tuple[str, ...], int, tuple[str, ...]]] = [
    ("extract", ("openmoji", "minilm", "--shard", "4/4"), 2, ("4/4", "0/4 to 3/4")),
    ("extract", ("openmoji", "minilm", "--shard", "half"), 2, ("'half'", "INDEX/COUNT")),
    ("extract", ("openmoji", "minilm", "--shard", "0/2", "--executor", "ray"), 2, ("--executor ray", "--shard")),
    ("extract", ("openmoji", "minilm", "--actors", "2"), 2, ("--actors", "--executor ray")),
    ("extract", ("openmoji", "minilm", "--device", "cuda:77"), 2, ("cuda:77", "cpu is always there")),
    ("extract", ("openmoji", "minilm", "--device", "cpu,cuda:77"), 2, ("cuda:77", "cpu is always there")),
    ("extract", ("openmoji", "minilm", "--device", "cuda:0,cuda:0"), 2, ("cuda:0 twice", "cuda:0,cuda:1")),
    ("extract", ("openmoji", "minilm", "--on-error", "ignore"), 2, ("'stop', 'skip'",)),
    ("ls", ("openmoij",), 1, ("openmoij", "The cache holds: openmoji", "Did you mean openmoji?")),
    ("ls", ("./nowhere",), 2, ("there is no cache at nowhere",)),
    ("ls", ("colleague",), 2, ("colleague is a folder here", "./colleague")),
    ("ls", ("a/b/c/d/e",), 2, ("'a/b/c/d/e'", "dataset[/view[/encoder[/layer]]]")),
    ("ls", ("openmoji", "minilm"), 2, ("one pattern", "flickr30k/*/gpt2")),
    ("show", ("openmoji", "gpt2"), 1, ("no gpt2 for openmoji", "minilm", "featcache extract openmoji gpt2")),
    ("show", ("openmoji", "minilm", "minilm", "minilm"), 2, ("two to compare",)),
    ("du", ("nosuch",), 1, ("nosuch", "The cache holds: openmoji")),
    ("verify", ("nosuch",), 1, ("nosuch", "The cache holds: openmoji")),
    ("repair", ("--from", "./nowhere"), 2, ("there is no cache at nowhere",)),
    ("repair", ("nosuch",), 1, ("nosuch", "The cache holds: openmoji")),
    ("rm", ("openmoji", "minilmm"), 1, ("minilmm", "minilm/last.mean")),
    ("rm", ("nosuch", "minilm"), 1, ("nosuch",)),
    ("mv", ("nosuch", "other"), 1, ("nosuch", "The cache holds: openmoji")),
    ("mv", ("openmoji", "a/b"), 2, ("same form", "'a/b'")),
    ("mv", ("openmoji/*", "openmoji/a"), 2, ("'*'", "letters, digits")),
    ("mv", ("openmoji/images", "openmoji/captions"), 2, ("other rows", "nothing was renamed", "featcache ls")),
    ("mv", ("openmoji/captions/minilm", "openmoji/captions/minilm"), 2, ("is there already", "featcache rm")),
    ("gc", ("--cache", "s3://nosuch/cache"), 1, ("s3://nosuch/cache",)),
    ("doctor", ("ftp://lab",), 2, ("ftp:// is not known", "s3://")),
    ("push", ("afile",), 2, ("afile is a file",)),
    ("push", ("ftp://lab/cache",), 2, ("ftp:// is not known", "s3://", "hf://datasets/")),
    ("push", ("other", "openmoji/images/minilm"), 1, ("no images/minilm for openmoji in cache",)),
    ("push", ("other", "--prefer", "theirs"), 2, ("'local', 'remote'",)),
    ("push", ("other", "--cache", "nowhere"), 2, ("there is no cache at nowhere",)),
    ("push", ("unequal",), 1, ("RootsDiffer", "openmoji/captions/minilm", "cache and unequal", "--prefer local")),
    ("pull", ("./nowhere",), 2, ("there is no cache at nowhere",)),
    ("pull", ("empty",), 1, ("nothing to send in empty",)),
    ("pull", ("colleague", "openmoji", "--rows", "5"), 2, ("'5'", "START:STOP", "0:10000")),
    ("pull", ("colleague", "openmoji/images", "--rows", "0:999"), 2, ("rows 0:999", "which has 160")),
    ("pull", ("unequal", "openmoji"), 1, ("RootsDiffer", "unequal and cache", "--prefer remote")),
    ("sync", ("unequal",), 1, ("RootsDiffer", "--prefer local", "--prefer remote")),
    ("export", ("openmoji", "minilm", "afile"), 2, ("afile", ".parquet")),
    ("export", ("openmoji", "minilm", "taken.npz"), 2, ("taken.npz is there already", "--overwrite")),
    ("export", ("openmoji", "minilm", "nodir/out.npz"), 2, ("no folder nodir",)),
    ("import", ("mine.npy", *FILED), 2, ("which row is which", "--ids FILE")),
    ("import", ("mine.npy", *FILED, "--ids", "ids.txt"), 2, ("--layer",)),
    ("import", ("no.npy", *FILED), 2, ("there is no no.npy",)),
    ("import", ("taken.npz", *FILED), 1, ("taken.npz is no whole export",)),
    ("import", ("ids.txt", *FILED), 2, ("--format", "thingsvision")),
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a user: a cache, a colleague's equal one, one with other bytes, and files of other tools."""
    folder = tmp_path_factory.mktemp("user")
    tiny_cache(folder, captions=2)
    shutil.copytree(folder / "cache", folder / "colleague")
    (folder / "other").mkdir()
    tiny_cache(folder / "other", captions=2)
    _compute_otherwise(folder / "other/cache")
    (folder / "other/cache").rename(folder / "unequal")
    (folder / "empty").mkdir()
    (folder / "afile").write_text("not a folder")
    (folder / "taken.npz").write_bytes(b"somebody's")
    np.save(folder / "mine.npy", np.eye(160, 8, dtype=np.float32))
    (folder / "ids.txt").write_text("".join(f"p{photo:03}.png\n" for photo in range(160)))
    return folder


def _compute_otherwise(cache: Path) -> None:
    """Writes one array of a cache again with other bytes, as another device would have."""
    from featcache.cache import Cache

    store = Cache(cache)
    array = store.find("openmoji", "minilm")
    key, plan = array.key(), array.complete().layout
    values = array.read()
    array.folder.delete()
    array.create(key, plan)
    for chunk in range(plan.chunks):
        start, stop = plan.span(chunk)
        array.commit(plan, chunk, values[start:stop] * np.float16(1.001), writer="0" * 32)
    array.finish(plan)


def _state(folder: Path) -> dict[str, bytes]:
    """Every file and its bytes but the cache's mark and what is only remembered: cards, leases, arrays found whole."""
    memory = {".encoders", ".featcache", ".leases", ".verified"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not memory & set(path.parts)
    }


def test_every_command_is_swept_with_a_run_that_ends_well_and_one_that_does_not() -> None:
    names = {name for name in command_names() if not name.startswith("emergence ")}
    assert GOOD.keys() == names - SWEPT_ELSEWHERE
    assert {command for command, _, _, _ in BAD} == names - SWEPT_ELSEWHERE


@pytest.mark.parametrize("command", list(GOOD))
def test_a_command_ends_well_and_says_what_it_did(made: Path, tmp_path: Path, command: str) -> None:
    shutil.copytree(made, tmp_path / "user")
    words, expected = GOOD[command]
    done = featcache(*words, "--cache", "cache", cwd=tmp_path / "user")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for part in expected:
        assert part in done.stdout


@pytest.mark.parametrize(("command", "words", "code", "expected"), BAD)
def test_a_mistake_is_one_clear_message_and_changes_nothing(
    made: Path, command: str, words: tuple[str, ...], code: int, expected: tuple[str, ...]
) -> None:
    before = _state(made)
    cache = () if "--cache" in words else ("--cache", "fresh" if command == "extract" else "cache")
    done = featcache(command, *words, *cache, cwd=made)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    said = " ".join(done.stderr.split())
    for part in expected:
        assert part in said
    assert _state(made) == before


def test_damage_is_named_refused_by_readers_and_mended_from_a_colleague(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "user")
    here = tmp_path / "user"
    [flipped] = (here / "cache/openmoji/captions/minilm/last.mean").rglob("c.0.0")
    before, content = _state(here / "cache"), bytearray(flipped.read_bytes())
    content[10] ^= 4
    flipped.write_bytes(content)
    [cut] = (here / "cache/openmoji/images/efficientnet-lite0").rglob("c.0.0")
    cut.write_bytes(cut.read_bytes()[:100])
    found = featcache("verify", "--cache", "cache", cwd=here)
    assert found.returncode == 1
    assert "chunk 0 has flipped bits" in found.stdout and "chunk 0 has 100 bytes, recorded" in found.stdout
    assert "3 arrays in cache: 2 problems" in found.stdout and "featcache repair" in found.stdout
    alone = featcache("repair", "openmoji/captions", "--cache", "cache", cwd=here)
    assert alone.returncode == 1 and "--from" in alone.stdout and "Traceback" not in alone.stderr
    mended = featcache("repair", "--from", "./colleague", "--cache", "cache", cwd=here)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert mended.stdout.count("chunk 0 pulled") == 2 and "Mended; every byte is as recorded." in mended.stdout
    kept = {name: content for name, content in _state(here / "cache").items() if "/.aside-" not in name}
    assert kept == before


def test_repair_refuses_a_source_with_other_bytes(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "user")
    here = tmp_path / "user"
    [flipped] = (here / "cache/openmoji/captions/minilm/last.mean").rglob("c.0.0")
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"?")
    before = _state(here)
    done = featcache("repair", "--from", "./unequal", "--cache", "cache", cwd=here)
    assert done.returncode == 1 and "chunk 0 pulled" not in done.stdout and "Traceback" not in done.stderr
    assert "openmoji/captions/minilm" in done.stdout and "--from" in done.stdout
    assert _state(here) == before


def test_gc_lists_what_a_killed_writer_left_and_deletes_it_only_when_told(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "cache", tmp_path / "cache")
    name = f".tmp-{'0123' * 8}"
    left = tmp_path / "cache/openmoji/images" / name
    left.write_bytes(bytes(2000))
    before = _state(tmp_path)
    listed = featcache("gc", "--cache", "cache", cwd=tmp_path)
    assert listed.returncode == 0 and f"openmoji/images/{name}" in listed.stdout and "2.0 kB" in listed.stdout
    assert "1 of 1 can go" in listed.stdout and "featcache gc --delete" in listed.stdout
    assert _state(tmp_path) == before
    gone = featcache("gc", "--delete", "--cache", "cache", cwd=tmp_path)
    assert gone.returncode == 0 and "Deleted 1 of 1" in gone.stdout
    assert _state(tmp_path).keys() == before.keys() - {f"cache/openmoji/images/{name}"}


def test_gc_names_a_writer_of_another_host_that_fell_silent_until_its_lease_is_broken(
    made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made / "cache", tmp_path / "cache")
    note = tmp_path / "cache/.leases" / ("0123" * 8)
    note.parent.mkdir(exist_ok=True)
    owner = {"host": "lab2", "process": 4711, "namespace": "pid:[9]", "what": "extract gpt2", "began": 5.0}
    note.write_text(json.dumps(owner))
    os.utime(note, (60, 60))
    left = tmp_path / "cache/openmoji/images" / f".tmp-{'4567' * 8}"
    left.write_bytes(b"1")
    kept = featcache("gc", "--delete", "--cache", "cache", cwd=tmp_path)
    assert kept.returncode == 0 and left.exists() and note.exists()
    for words in ("extract gpt2, process 4711 on lab2, silent", "last sign of life", "1970-01-01", "Deleted 0 of 1"):
        assert words in kept.stdout
    assert "If none of them runs any more: featcache gc --break-lease" in kept.stdout
    told = featcache("gc", "--break-lease", "--cache", "cache", cwd=tmp_path)
    assert "run: featcache gc --delete --break-lease" in told.stdout and left.exists()
    gone = featcache("gc", "--delete", "--break-lease", "--cache", "cache", cwd=tmp_path)
    assert "Deleted 2 of 2" in gone.stdout and not left.exists() and not note.exists()


def test_gc_in_a_folder_that_is_no_cache_ends_with_a_message_and_deletes_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("rows-2026.csv", "overlay-final.png", ".tmp-draft.txt"):
        (tmp_path / "data" / name).write_text("mine")
    done = featcache("gc", "--delete", "--cache", "data", cwd=tmp_path)
    assert done.returncode == 2 and "data is not known to be a cache" in done.stderr
    assert len(os.listdir(tmp_path / "data")) == 3


def test_what_is_exported_is_what_numpy_and_h5py_read_and_can_be_imported_again(made: Path, tmp_path: Path) -> None:
    import h5py

    shutil.copytree(made, tmp_path / "user")
    here = tmp_path / "user"
    for file in ("out.npz", "out.h5"):
        done = featcache("export", "openmoji", "efficientnet-lite0", file, "--cache", "cache", cwd=here)
        assert done.returncode == 0, done.stderr
    with np.load(here / "out.npz") as npz, h5py.File(here / "out.h5") as h5:
        values = npz["values"]
        assert np.array_equal(values, h5["values"][()])  # pyright: ignore[reportIndexIssue, reportArgumentType]
        assert npz["ids"][7] == "p007.png" and json.loads(str(npz["key.json"]))["names"]["encoder"]
    np.save(here / "again.npy", values)
    words = ("--dataset", "openmoji", "--encoder", "again", "--layer", "last.mean", "--ids", "ids.txt")
    assert featcache("import", "again.npy", *words, "--cache", "cache", cwd=here).returncode == 0
    assert featcache("export", "openmoji", "again", "again.npz", "--cache", "cache", cwd=here).returncode == 0
    with np.load(here / "again.npz") as npz:
        assert np.array_equal(npz["values"], values)


def test_a_broken_photo_is_listed_dropped_on_loading_and_the_others_keep_their_ids(tmp_path: Path) -> None:
    photos = tmp_path / "birds"
    photos.mkdir()
    lines = ["image,caption"]
    for number in range(6):
        Image.new("RGB", (40, 40), (40 * number, 0, 0)).save(photos / f"{number}.jpg")
        lines.append(f"{number}.jpg,a red square of shade {number}")
    (photos / "captions.csv").write_text("\n".join(lines))
    (photos / "4.jpg").write_bytes((photos / "4.jpg").read_bytes()[:200])
    words = ("extract", "folder", "efficientnet-lite0", "--root", "birds", "--cache", "cache", "--layers", "last")
    done = featcache(*words, "--on-error", "skip", "--workers", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 array complete" in done.stdout and "1 row failed and will be dropped when loading: 4.jpg" in done.stdout
    assert featcache("export", "birds", "efficientnet-lite0", "b.npz", "--cache", "cache", cwd=tmp_path).returncode == 0
    with np.load(tmp_path / "b.npz") as npz:
        assert [str(each) for each in npz["ids"]] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "5.jpg"]
        assert [str(each) for each in npz["failed"]] == ["4.jpg"] and npz["values"].shape == (5, 1280)


@pytest.mark.parametrize("words", [("datasets",), ("datasets", "--json"), ("--help",)])
def test_a_reader_that_closes_the_pipe_ends_a_command_without_a_word(words: tuple[str, ...]) -> None:
    code = "import sys; sys.argv = ['featcache', *sys.argv[1:]]; from featcache.commands.app import main; main()"
    command = [sys.executable, "-c", code, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1
