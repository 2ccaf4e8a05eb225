"""How commands end: exit codes as docs/cli.md promises them, interruptions, full disks, narrow terminals, questions."""

import errno
import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from featcache.cache import Cache
from featcache.commands import app, endings, options
from featcache.errors import UsageError
from featcache.storage import durable
from featcache.studies.adapters import train as training
from tests.alignment_cache import layered_cache
from tests.cli_page import command_names
from tests.spine import tiny_cache

Ending = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layered_cache(tmp_path_factory.mktemp("endings")).root


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ending:
    """Runs the program in this process: exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["featcache", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            app.main()
        assert isinstance(end.value.code, int)
        return (end.value.code, *capsys.readouterr())

    return run


# -- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("ls",), 0, ""),
        (("nosuch",), 2, "No such command"),
        (("ls", "--nosuch"), 2, "No such option"),
        (("align", "openmoji", "vit"), 2, "Missing argument"),
        (("align", "openmoji", "vit", "lm", "--k", "0"), 2, "greater than or equal to 1"),
        (("align", "openmoji", "vit", "lm", "--null", "nosuch"), 2, "BadChoice"),
        (("align", "openmoji", "vit", "lm", "--metric", "nosuch"), 2, "BadChoice"),
        (("align", "openmoji", "vit", "lm", "--split", "nosuch"), 2, "NotPaired"),
        (("align", "openmoji", "vit", "lm", "--out", "x.csv"), 2, "UsageError"),
        (("train", "openmoji", "vit", "lm", "--reference", "big", "--lr", "-1"), 2, "lr = -1.0"),
        (("extract", "nosuch", "minilm"), 2, "UnknownDataset"),
        (("extract", "openmoji", "nosuch"), 2, "UnknownEncoder"),
        (("ls", "--cache", "/nowhere/at/all"), 2, "there is no cache"),
        (("align", "openmoji", "vit", "nosuch"), 1, "FeaturesNotCached"),
        (("align", "openmoji", "vit", "lm", "--k", "60"), 1, "TooFewRows"),
        (("embed", "nowhere"), 1, "RunMissing"),
        (("extract", "cifar10", "minilm"), 1, "DataMissing"),
    ],
)
def test_exit_codes_are_those_that_the_page_promises(
    place: Path, ending: Ending, words: tuple[str, ...], code: int, said: str
) -> None:
    given = words if "--cache" in words or "nosuch" == words[0] else (*words, "--cache", place)
    got, _, err = ending(*given)
    assert got == code and said in err and "Traceback" not in err


def test_damage_is_exit_code_1_of_verify(tmp_path: Path, ending: Ending) -> None:
    cache = layered_cache(tmp_path)
    chunk = cache.find("openmoji", "vit").path / "c.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert ending("verify", "--cache", cache.root)[0] == 1


def test_an_error_of_the_system_is_one_line_and_exit_code_1(
    place: Path, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/dev/sick")

    monkeypatch.setattr(Cache, "entries", fail)
    assert ending("ls", "--cache", place)[::2] == (1, "OSError: cannot read or write /dev/sick: Input/output error\n")


# -- interruptions ----------------------------------------------------------------------------------------------------


def test_every_command_says_what_an_interruption_leaves() -> None:
    assert list(endings.AFTER_INTERRUPTION) == command_names()


def test_an_interrupted_training_keeps_nothing_and_says_so(
    tmp_path: Path, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    root = tiny_cache(tmp_path).root
    monkeypatch.setattr(training, "fit_paired", interrupt)
    code, _, err = ending("train", "--cache", root, "--out", tmp_path / "runs/one")
    assert (code, err.splitlines()[-1]) == (130, "Interrupted. Nothing of this run is kept.")
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("extract", "What was committed stays: run the same command again to go on."),
        ("pull", "What arrived stays: run the same command again to go on."),
        ("export", "No file was written."),
        ("ls", "Nothing was changed."),
    ],
)
def test_an_interruption_is_told_by_command(
    ending: Ending, monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "app", interrupt)
    assert ending(command)[::2] == (130, f"Interrupted. {said}\n")


# -- terminals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_a_character_gets_a_plain_one(
    place: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    words = ["align", "openmoji", "vit", "lm", "--k", "5", "--permutations", "39", "--cache", str(place)]
    monkeypatch.setattr(sys, "argv", ["featcache", *words])
    with pytest.raises(SystemExit) as end:
        app.main()
    assert end.value.code == 0
    out.flush()
    printed = out.buffer.getvalue().decode(encoding)  # pyright: ignore[reportAttributeAccessIssue]
    assert "<= 0.025" in printed and "39 permutations" in printed


def test_characters_without_a_plain_form_become_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    endings.accept_any_terminal()
    out.write("a→b −1 – ≤ é \udc80")
    out.flush()
    assert out.buffer.getvalue() == b"a->b -1 - <= ? ?"  # pyright: ignore[reportAttributeAccessIssue]


def test_json_on_such_a_terminal_loses_no_character(monkeypatch: pytest.MonkeyPatch) -> None:
    from featcache.report.terminal.console import print_json

    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    endings.accept_any_terminal()
    print_json({"id": "ü→😀"})
    out.flush()
    assert json.loads(out.buffer.getvalue()) == {"id": "ü→😀"}  # pyright: ignore[reportAttributeAccessIssue]


# -- full disks -------------------------------------------------------------------------------------------------------


def test_a_table_and_a_figure_on_a_full_disk_are_one_error_and_leave_what_was_there(
    place: Path, tmp_path: Path, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featcache.storage import outputs

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs, "sync_file", full)
    words = ("openmoji", "vit", "lm", "--k", "5", "--null", "none", "--cache", place)
    for command, option, name in (
        ("align", "--out", "t.parquet"), ("grid", "--out", "t.parquet"), ("curve", "--out", "t.parquet"),
        ("grid", "--figure", "t.png"), ("grid", "--figure", "t.svg"),
    ):  # fmt: skip
        path = tmp_path / name
        path.write_bytes(b"before")
        given = [word for word in words if command != "curve" or word not in ("--null", "none")]
        code, _, err = ending(command, *given, option, path)
        assert (code, err) == (1, f"OutputFailed: cannot write {path}: No space left on device\n"
                                  "  Free space there, or name another place\n")  # fmt: skip
        assert path.read_bytes() == b"before" and not [*tmp_path.glob(".*")]


LIMITED = """
import sys
from pathlib import Path
from featcache.cache import Cache
from featcache.errors import OutputFailed
from featcache.interchange.exporting import export_features
cache = Cache(sys.argv[1])
for suffix in (".npz", ".h5", ".safetensors", ".parquet"):
    path = Path(sys.argv[2]) / f"out{suffix}"
    try:
        export_features(cache, cache.find("openmoji", "efficientnet-lite2"), path)
    except OutputFailed as error:
        print(suffix, str(error).splitlines()[0])
    assert not list(path.parent.iterdir()), "nothing half-done stays"
"""


def test_an_export_that_the_disk_cannot_take_is_one_error_in_every_format(tmp_path: Path) -> None:
    """Files of this process may not grow beyond some bytes, which fails like a full disk."""
    root = tiny_cache(tmp_path, photos=400).root
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", LIMITED, str(root), str(tmp_path / "out")]
    limit = (resource.RLIMIT_FSIZE, (8192, 8192))
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(*limit))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [".npz", ".h5", ".safetensors", ".parquet"]
    assert all("cannot write" in line and line.endswith(": File too large") for line in lines), lines


def test_a_run_that_the_disk_cannot_take_is_one_error_and_leaves_nothing(
    tmp_path: Path, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    root = tiny_cache(tmp_path).root
    monkeypatch.setattr(training, "write_results", full)
    code, _, err = ending("train", "--cache", root, "--epochs", 1, "--out", tmp_path / "runs/one")
    assert code == 1 and f"OutputFailed: cannot write {tmp_path / 'runs/one'}: No space left on device" in err
    assert list((tmp_path / "runs").iterdir()) == []


# -- questions --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rm_without_anybody_to_ask_refuses_and_with_yes_deletes(tmp_path: Path, ending: Ending) -> None:
    cache = layered_cache(tmp_path)
    words = ("rm", "openmoji", "noise", "--cache", cache.root)
    code, out, err = ending(*words)
    assert code == 2 and "captions/noise" in out and "Delete 2 arrays" in err and err.endswith("Add --yes\n")
    assert len(list(cache.arrays("openmoji", "*", "noise"))) == 2
    assert ending(*words, "--dry-run")[0] == 0 and len(list(cache.arrays("openmoji", "*", "noise"))) == 2
    code, out, _ = ending(*words, "--yes")
    assert code == 0 and out.endswith("Deleted.\n") and not list(cache.arrays("openmoji", "*", "noise"))


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_rm_at_a_terminal_asks(
    tmp_path: Path, ending: Ending, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    cache = layered_cache(tmp_path)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    got, _, _ = ending("rm", "openmoji", "noise", "--cache", cache.root)
    assert got == code and bool(list(cache.arrays("openmoji", "*", "noise"))) == bool(code)


def test_a_question_without_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(
        UsageError, match="Sure\\? Nobody is at a terminal to answer, and nothing was done\n  Add --yes"
    ):
        options.confirm("Sure?")


def test_a_note_that_saves_time_is_left_out_where_nobody_can_write() -> None:
    for number, left_out in ((errno.EROFS, True), (errno.EACCES, True), (errno.ENOSPC, False)):
        try:
            with durable.unless_read_only():
                raise OSError(number, "no")
        except OSError:
            assert not left_out
        else:
            assert left_out
