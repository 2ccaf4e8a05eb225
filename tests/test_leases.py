"""Who counts as a live writer, whatever becomes of its clock, its host and its number?"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from featcache.storage import processes
from featcache.storage.local import LocalFolder
from featcache.storage.processes import Process, fate, this_process
from featcache.store import leases as module
from featcache.store.leases import DEAD_SECONDS, FOLDER, MARGIN_SECONDS, Lease, cleaning, lease, leases
from featcache.store.mark import MARK

REPOSITORY = Path(__file__).parents[1]
BOOT, PID_NAMESPACE = "b00t", "pid:[1]"


class Machine:
    """A /proc of our own: what stands in it is all that is known of processes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proc, self.numbers = folder, set[int]()
        (folder / "self/ns").mkdir(parents=True)
        (folder / "self/ns/pid").symlink_to(PID_NAMESPACE)
        self.set_boot(BOOT)
        monkeypatch.setattr(processes, "PROC", folder)
        monkeypatch.setattr(os, "kill", self.kill)
        monkeypatch.setattr(socket, "gethostname", lambda: "lab1")

    def set_boot(self, boot: str) -> None:
        folder = self.proc / "sys/kernel/random"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "boot_id").write_text(f"{boot}\n")
        processes._boot.cache_clear()  # pyright: ignore[reportPrivateUsage]

    def run(self, number: int, *, started: str = "777", state: str = "S", readable: bool = True) -> Process:
        """Starts a process and returns what it would write of itself."""
        self.numbers.add(number)
        if readable:
            (self.proc / str(number)).mkdir(exist_ok=True)
            fields = [state, *["0"] * 18, started, "0", "0"]
            (self.proc / str(number) / "stat").write_text(f"{number} (py thon) 3.1) {' '.join(fields)}\n")
        return Process("lab1", number, PID_NAMESPACE, BOOT, started)

    def kill(self, number: int, sent: int) -> None:
        assert sent == 0, "nothing is to be killed"
        if number not in self.numbers:
            raise ProcessLookupError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    yield Machine(tmp_path / "proc", monkeypatch)
    processes._boot.cache_clear()  # pyright: ignore[reportPrivateUsage]


def of(owner: Process, *, began: float = 1000.0, beat: float = 1000.0) -> Lease:
    return Lease(Path("x"), owner, "extract", began, beat)


@pytest.mark.parametrize("state", ["R", "S", "D", "T", "t"])
def test_a_process_that_runs_sleeps_or_was_stopped_lives_however_old_its_last_beat_is(
    machine: Machine, state: str
) -> None:
    writer = of(machine.run(7, state=state))
    assert {writer.state(1000 + late) for late in (0, 119, 10_000, 1e8)} == {"live"}


def test_a_clock_set_back_or_forward_kills_no_lease(machine: Machine) -> None:
    here, elsewhere = of(machine.run(7)), of(Process("lab2", 7, PID_NAMESPACE, "other", "1"))
    assert {each.state(1000 - 86_400) for each in (here, elsewhere)} == {"live"}
    assert here.state(1000 + 86_400) == "live"


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_process_that_ended_and_was_not_waited_for_is_over(machine: Machine, state: str) -> None:
    assert of(machine.run(7, state=state)).state(1000) == "ended"


def test_a_number_that_is_free_again_or_given_to_another_process_keeps_no_lease_alive(machine: Machine) -> None:
    writer = of(machine.run(7, started="777"))
    machine.run(7, started="99999")
    assert writer.state(1000) == "ended"
    machine.numbers.clear()
    assert writer.state(1000) == "ended"


def test_a_process_of_another_user_that_proc_hides_lives(machine: Machine) -> None:
    assert of(machine.run(8, readable=False)).state(1e8) == "live"


def test_a_name_with_blanks_and_brackets_hides_no_start(machine: Machine) -> None:
    machine.run(os.getpid(), started="4242")
    assert this_process() == Process("lab1", os.getpid(), PID_NAMESPACE, BOOT, "4242")


def test_a_host_that_was_renamed_is_the_same_host(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = of(machine.run(7))
    monkeypatch.setattr(socket, "gethostname", lambda: "cafe")
    assert writer.state(1e8) == "live"
    machine.numbers.clear()
    assert writer.state(1000) == "ended"


def test_a_host_that_began_anew_runs_none_of_its_old_processes_and_a_namesake_that_beats_is_another(
    machine: Machine,
) -> None:
    before = machine.run(7)
    machine.set_boot("later")
    assert fate(before) == "restarted"
    assert of(before).state(1000 + DEAD_SECONDS) == "ended"
    assert of(before).state(1000 + DEAD_SECONDS / 2) == "live"


@pytest.mark.parametrize(
    "other", [Process("lab2", 7, PID_NAMESPACE, "other", "777"), Process("lab1", 7, "pid:[2]", BOOT, "777")]
)
def test_a_writer_of_another_host_or_container_is_live_while_it_beats_then_silent_and_never_ended(
    machine: Machine, other: Process
) -> None:
    machine.run(7)
    assert fate(other) == "elsewhere"
    assert of(other).state(1000 + DEAD_SECONDS - 1) == "live"
    assert {of(other).state(1000 + late) for late in (DEAD_SECONDS, 1e8)} == {"silent"}


def test_a_lease_of_0_1_says_no_start_so_its_process_may_be_another_once_it_beats_no_more(
    machine: Machine, tmp_path: Path
) -> None:
    machine.run(7)
    home = tmp_path / FOLDER
    home.mkdir()
    value = {"host": "lab1", "process": 7, "namespace": PID_NAMESPACE, "what": "extract minilm", "began": 5.0}
    (home / f"{1:032x}").write_text(json.dumps(value))
    (read,), now = leases(tmp_path)
    assert (read.owner, read.what, read.began) == (Process("lab1", 7, PID_NAMESPACE), "extract minilm", 5.0)
    assert (read.state(now), read.state(now + DEAD_SECONDS)) == ("live", "silent")
    machine.numbers.clear()
    assert read.state(now) == "ended"


def test_a_lease_that_0_1_is_just_writing_is_live_and_one_that_stays_empty_is_over(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / f"{1:032x}").touch()
    (read,), now = leases(tmp_path)
    assert (read.state(now), read.state(now + DEAD_SECONDS)) == ("live", "ended")


JUNK = {
    "text": b"not JSON",
    "a list": b"[1]",
    "no fields": b"{}",
    "kinds": b'{"host": 5, "process": "7", "what": "x", "began": 1}',
    "times": b'{"host": "h", "process": 7, "what": "x", "began": "yesterday"}',
    "nan": b'{"host": "h", "process": 7, "what": "x", "began": NaN}',
    "far": b'{"host": "h", "process": 7, "what": "x", "began": 1e300}',
    "deep": b"[" * 60_000,
    "truth": b'{"host": "h", "process": true, "what": "x"}',
    "bytes": bytes(range(128, 256)),
    "large": b" " * 70_000 + b"{}",
}


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK.keys())
def test_junk_among_the_leases_is_nobodys_lease_and_no_error(tmp_path: Path, content: bytes) -> None:
    home = tmp_path / FOLDER
    home.mkdir()
    (home / f"{1:032x}").write_bytes(content)
    assert leases(tmp_path)[0] == []


def test_neither_names_that_are_not_ours_nor_links_nor_pipes_are_read_as_leases(tmp_path: Path) -> None:
    home = tmp_path / FOLDER
    with lease(LocalFolder(tmp_path), "extract"):
        ((whole,), _) = leases(tmp_path)
        (home / "notes.json").write_bytes(whole.path.read_bytes())
        (home / f"{1:032x}").symlink_to(whole.path)
        os.mkfifo(home / f"{2:032x}")
        (home / f"{3:032x}").mkdir()
        assert [each.path for each in leases(tmp_path)[0]] == [whole.path]


# -- holding one ------------------------------------------------------------------------------------------------------


def test_a_writer_marks_the_cache_holds_one_lease_and_leaves_none(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path / "cache")
    with lease(folder, "import"), lease(folder, "write"):
        assert json.loads((folder.path / MARK).read_text()) == {"format": 1}
        ((held,), now) = leases(folder.path)
        assert (held.what, held.owner, held.state(now)) == ("import", this_process(), "live")
        assert held.owner.started and held.owner.host == socket.gethostname()
    assert os.listdir(folder.path / FOLDER) == []


def test_a_file_changed_since_just_before_the_lease_may_be_its_writers(tmp_path: Path) -> None:
    held = of(this_process())
    assert held.may_have_made(1000 - MARGIN_SECONDS, 1000) and held.may_have_made(2000, 2000)
    assert not held.may_have_made(1000 - MARGIN_SECONDS - 1, 1000)
    assert held.may_have_made(0, 1000 - 3600), "the clock was set back since the last beat: times say nothing"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)


def eventually(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_lease_that_was_broken_while_its_writer_slept_is_written_anew(quick: None, tmp_path: Path) -> None:
    with lease(LocalFolder(tmp_path), "extract"):
        ((held,), _) = leases(tmp_path)
        held.path.unlink()
        eventually(lambda: leases(tmp_path)[0])
        ((again,), _) = leases(tmp_path)
        assert replace(again, beat=held.beat) == held


def test_a_clock_set_back_makes_the_lease_begin_earlier(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.utime
    with lease(LocalFolder(tmp_path), "extract"):
        ((held,), _) = leases(tmp_path)
        monkeypatch.setattr(os, "utime", lambda path, _=None: real(path, (held.began - 3600, held.began - 3600)))
        eventually(lambda: [each.began for each in leases(tmp_path)[0]] < [held.began - 3500])
        assert leases(tmp_path)[0][0].may_have_made(held.began - 3590, held.began - 3580)


def test_a_disk_that_is_away_for_a_while_does_not_stop_the_heart(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = os.utime, iter(range(3))

    def failing(path: Path, _: None = None) -> None:
        if path == held.path and next(failures, None) is not None:
            raise OSError(116, "Stale file handle")
        real(path)

    with lease(LocalFolder(tmp_path), "extract"):
        ((held,), _) = leases(tmp_path)
        monkeypatch.setattr(os, "utime", failing)
        eventually(lambda: leases(tmp_path)[0][0].beat > held.beat)


def test_a_writer_waits_for_those_who_clean_and_those_who_clean_later_see_it(tmp_path: Path) -> None:
    folder, steps, inside = LocalFolder(tmp_path), list[str](), threading.Event()

    def write() -> None:
        with lease(folder, "extract"):
            steps.append("writes")
            inside.set()
            go.wait(20)

    go = threading.Event()
    writer = threading.Thread(target=write)
    with cleaning(tmp_path, "gc") as others:
        assert others()[0] == []
        writer.start()
        eventually(lambda: [each.what for each in others()[0]] == ["extract"])
        assert not inside.wait(0.3)
        steps.append("cleaned")
    assert inside.wait(20) and steps == ["cleaned", "writes"]
    with cleaning(tmp_path, "gc") as others:
        assert [each.what for each in others()[0]] == ["extract"], "it does not wait for the writer"
    go.set()
    writer.join()


def test_one_who_cleans_neither_waits_for_itself_nor_sees_its_own_leases(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    with lease(folder, "mv"), cleaning(tmp_path, "rm") as others, lease(folder, "rm"), cleaning(tmp_path, "rm"):
        assert others()[0] == []


def test_a_forked_child_takes_a_lease_of_its_own(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    reading, writing = os.pipe()
    with lease(folder, "parent"):
        child = os.fork()
        if child == 0:
            with lease(folder, "child"):
                os.write(writing, " ".join(sorted(each.what for each in leases(tmp_path)[0])).encode())
            os._exit(0)
        os.waitpid(child, 0)
    assert os.read(reading, 100) == b"child parent"


WRITER = """
import sys, time
from pathlib import Path
from featcache.storage.local import LocalFolder
from featcache.store.leases import lease
with lease(LocalFolder(Path(sys.argv[1])), "push"):
    print("ready", flush=True)
    time.sleep(600)
"""


@contextmanager
def writer(cache: Path) -> "Iterator[subprocess.Popen[str]]":
    """A process that holds a lease."""
    command = [sys.executable, "-c", WRITER, str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        try:
            assert process.stdout and process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_real_process_is_live_stopped_or_not_and_over_once_it_is_killed(tmp_path: Path) -> None:
    with writer(tmp_path) as process:
        ((held,), now) = leases(tmp_path)
        assert held.owner.number == process.pid
        process.send_signal(signal.SIGSTOP)
        assert held.state(now + 1e6) == "live"
        process.send_signal(signal.SIGCONT)
        recycled = replace(held, owner=replace(held.owner, started="1"))
        assert recycled.state(now) == "ended"
        process.kill()
        eventually(lambda: held.state(now) == "ended")  # also before anybody waits for it
