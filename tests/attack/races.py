"""Races of writers, cleaners and readers on one cache: at the end every array is complete and has its bytes."""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from random import Random

from tests.attack.attacks import Attack, Ground, Problem, badly_ended, last_line
from tests.attack.children import Ended, Limits, run_all
from tests.attack.contents import complete_arrays, litter
from tests.attack.readers import loaded
from tests.attack.site import Site, import_words, quiet_environment

RACES, SECONDS = 6, 12.0

# what a command may say because another one was quicker; everything else is a problem
EXPECTED = {
    "extract": (),
    "import": (),
    "gc": (),
    "verify": ("FeaturesNotCached",),
    "push": ("FeaturesNotCached", "renamed or removed meanwhile. Run the same command again"),
    "pull": ("FeaturesNotCached", "renamed or removed meanwhile. Run the same command again"),
    "mv": ("FeaturesNotCached",),
    "ls": (),
}


@dataclass(frozen=True)
class Racer:
    """A command that is repeated until the race is over.

    Args:
        name: Of the command.
        words: Of its n-th run.
        between: What is done before the n-th run, as to delete what it then computes again.
    """

    name: str
    words: Callable[[Site, Path, int], list[str]]
    between: Callable[[Path, int], None] = lambda copy, turn: None


def _cache(copy: Path) -> list[str]:
    return ["--cache", f"{copy / 'cache'}"]


def _renamed(site: Site, copy: Path, turn: int) -> list[str]:
    names = ("theirs", "ours")
    return ["mv", f"tiny/images/{names[turn % 2]}", f"tiny/images/{names[1 - turn % 2]}", *_cache(copy)]


def _fresh_target(copy: Path, turn: int) -> None:
    if turn % 3 == 0:
        shutil.rmtree(copy / "pulled", ignore_errors=True)


RACERS = (
    Racer("extract", lambda site, copy, turn: _extract_other(site, copy, turn)),
    Racer("gc", lambda site, copy, turn: ["gc", "--delete", *_cache(copy)]),
    Racer("verify", lambda site, copy, turn: ["verify", "--deep", *_cache(copy)]),
    Racer("push", lambda site, copy, turn: ["push", f"{copy / 'remote'}", *_cache(copy)]),
    Racer("import", lambda site, copy, turn: import_words(copy, "theirs.npy", f"new{turn}")),
    Racer("mv", _renamed),
    Racer(
        "pull", lambda site, copy, turn: ["pull", f"{copy / 'cache'}", "--cache", f"{copy / 'pulled'}"], _fresh_target
    ),
)


def _extract_other(site: Site, copy: Path, turn: int) -> list[str]:
    """The same data set under another name each time, so that there is something to compute."""
    words = site.extract(copy, ("gpt2", "dinov2-small")[turn % 2])
    return [f"folder:data{turn // 2}" if word == "folder:tiny" else word for word in words]


def attacks(races: int = RACES, seconds: float = SECONDS) -> list[Attack]:
    """So many races, each of so many seconds."""
    return [Attack(f"races/all/{number}", partial(_race, seconds)) for number in range(races)]


def _race(seconds: float, ground: Ground, random: Random) -> Iterable[Problem]:
    with ground.copy() as copy:
        before = ground.run(partial(loaded, copy / "cache"))[0].value
        until = time.monotonic() + seconds
        racers = random.sample(RACERS, len(RACERS))
        pids = [_started(racer, ground, copy, until, random.random()) for racer in racers]
        for racer, pid in zip(racers, pids, strict=True):
            if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
                yield Problem("traceback", f"the racer of {racer.name} died")
        for path in sorted(copy.glob("said-*")):
            for line in path.read_text().splitlines():
                harm, _, what = line.partition(" ")
                yield Problem("traceback" if harm == "traceback" else "lost", what)
        yield from _at_the_end(ground, copy, before)


def _started(racer: Racer, ground: Ground, copy: Path, until: float, delay: float) -> int:
    """A process that repeats the command; what was wrong it writes into a file."""
    pid = os.fork()
    if pid:
        return pid
    try:
        time.sleep(delay)
        with (copy / f"said-{racer.name}").open("w") as file:
            for turn in count():
                if time.monotonic() > until and (racer.name != "mv" or turn % 2 == 0):
                    break
                racer.between(copy, turn)
                (ended,) = run_all([racer.words(ground.site, copy, turn)], Limits(), quiet_environment(ground.folder))
                for problem in _unexpected(racer, ended):
                    print(problem.harm, problem.what.replace("\n", " "), file=file, flush=True)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _unexpected(racer: Racer, ended: Ended) -> Iterator[Problem]:
    yield from badly_ended(ended)
    if ended.exit == 1 and not any(words in ended.err for words in EXPECTED[racer.name]):
        said = (ended.err.strip() or ended.out.strip()).partition("\n")[0] or last_line(ended)
        yield Problem("lost", f"beside others, {ended.what}: {said}")


def _at_the_end(ground: Ground, copy: Path, before: dict[str, str]) -> Iterator[Problem]:
    """Nobody works any more: everything is whole, and what was there is there, byte for byte."""
    for note in copy.rglob(".leases/**/*"):
        with suppress(FileNotFoundError):
            os.utime(note, (time.time() - 600,) * 2)
    tasks = [
        [*words, "--cache", f"{copy / name}"]
        for name in ("cache", "remote")
        for words in (["gc", "--delete"], ["verify", "--deep"])
    ]
    *ended, after = ground.run(*tasks, partial(loaded, copy / "cache"))
    for each in ended:
        yield from badly_ended(each)
        if each.exit:
            yield Problem("lost", f"at the end, {each.what}: {each.err or each.out}".partition("\n")[0])
    now = {name.replace("/ours/", "/theirs/"): value for name, value in (after.value or {}).items()}
    for name, value in before.items():
        if now.get(name) != value and "@" in name:
            yield Problem("lost", f"{name} is {now.get(name, 'gone')[:200]}")
    unfinished = [name for name, value in now.items() if ": " in value and "@" in name]
    if unfinished:
        yield Problem("lost", f"{unfinished[0]} is not complete: {now[unfinished[0]][:200]}")
    if left := litter(copy / "cache"):
        yield Problem("lost", f"gc --delete leaves {', '.join(left[:5])}")
    here = complete_arrays(copy / "cache")
    for digest, chunks in complete_arrays(copy / "remote").items():
        if here.get(digest, chunks) != chunks:
            yield Problem("silent", f"{digest} has other bytes in the remote")
