"""Kills of each real command at a random step or moment: nothing acknowledged is lost, and the same command goes on."""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random

from tests.attack.attacks import Attack, Ground, Problem, badly_ended, last_line
from tests.attack.children import Ended, Limits
from tests.attack.contents import committed, complete_arrays, contents, differences, litter
from tests.attack.site import DATASET, EXPORTS, Site, fresh_copy, import_words

RUNS = 14  # kills of each scenario


@dataclass(frozen=True)
class Scenario:
    """A command that is killed.

    Args:
        name: Command, and what is special about it.
        words: Its words on a copy of the site.
        begin: Makes of a fresh copy what the command begins with.
        ends: Exit codes of the run after the kill: what had removed everything finds nothing to remove.
        removes: It deletes or renames arrays, so that those from before may be gone.
        mends: There is damage before it.
    """

    name: str
    words: Callable[[Site, Path], list[str]]
    begin: Callable[[Ground, Path], None] = lambda ground, place: None
    ends: frozenset[int] = frozenset({0})
    removes: bool = False
    mends: bool = False


def _cache(place: Path, name: str = "cache") -> list[str]:
    return ["--cache", f"{place / name}"]


def _without(*names: str) -> Callable[[Ground, Path], None]:
    def begin(ground: Ground, place: Path) -> None:
        for name in names:
            shutil.rmtree(place / name)

    return begin


def _older(ground: Ground, place: Path) -> None:
    shutil.rmtree(place / "cache")
    ground.run(ground.site.extract(place, "gpt2", older=True))


def _littered(ground: Ground, place: Path) -> None:
    """Leaves what killed writers leave."""
    for number, step in enumerate((20, 30, 45, 55)):
        ground.run(import_words(place, "theirs.npy", f"left{number}"), limits=Limits(root=place, kill_step=step))
    for step in (20, 60, 200):
        words = ground.site.extract(place, "gpt2")
        shutil.rmtree(place / "cache/tiny/captions/gpt2/0.mean", ignore_errors=True)
        ground.run(words, limits=Limits(root=place, kill_step=step))
    ground.run(ground.site.extract(place, "gpt2"))


def _damaged(ground: Ground, place: Path) -> None:
    """Flips, cuts and deletes files that the remote has whole."""
    arrays = sorted(path.parent for path in (place / "cache").rglob("COMPLETE.json"))
    for number, array in enumerate(arrays):
        target = array / ("c.0.0", "commits/0.json", "COMPLETE.json", "c.0.0")[number % 4]
        content = target.read_bytes()
        if number % 4 == 3:
            target.unlink()
        else:
            target.write_bytes(content[: len(content) // 2] + b"\x00" + content[len(content) // 2 + 1 :])


_GONE = frozenset({0, 1})

SCENARIOS = (
    Scenario("extract", lambda site, place: site.extract(place, "gpt2"), _without("cache")),
    Scenario("extract-images", lambda site, place: site.extract(place, "dinov2-small"), _without("cache")),
    Scenario("extract-changed", lambda site, place: site.extract(place, "gpt2"), _older),
    Scenario("import", lambda site, place: import_words(place, "theirs.npy", "mine")),
    Scenario("import-first", lambda site, place: import_words(place, "theirs.pt", "mine"), _without("cache")),
    *(
        Scenario(
            f"export{end}",
            lambda site, place, end=end: (
                ["export", DATASET, "gpt2", f"{place / f'out{end}'}", "--overwrite"] + _cache(place)
            ),
        )
        for end in EXPORTS
    ),
    Scenario("train", lambda site, place: site.train(place, "c", 2)),
    Scenario("train-again", lambda site, place: [*site.train(place, "a", 2), "--overwrite"]),
    Scenario("embed", lambda site, place: ["embed", f"{place / 'runs' / 'b'}", *_cache(place)]),
    Scenario(
        "align",
        lambda site, place: (
            ["align", DATASET, "theirs", "dinov2-small", "--k", "5", "--permutations", "19", *_cache(place)]
        ),
    ),
    Scenario("mv-dataset", lambda site, place: ["mv", "tiny", "small", *_cache(place)], ends=_GONE, removes=True),
    Scenario(
        "mv-encoder",
        lambda site, place: ["mv", "tiny/captions/gpt2", "tiny/captions/lm", *_cache(place)],
        ends=_GONE,
        removes=True,
    ),
    Scenario("rm", lambda site, place: ["rm", "tiny", "gpt2/*", "--yes", *_cache(place)], ends=_GONE, removes=True),
    Scenario("gc", lambda site, place: ["gc", "--delete", *_cache(place)], _littered),
    Scenario("gc-superseded", lambda site, place: ["gc", "--superseded", "--delete", *_cache(place)], removes=True),
    Scenario(
        "repair",
        lambda site, place: ["repair", "--from", f"{place / 'remote'}", *_cache(place)],
        _damaged,
        mends=True,
    ),
    Scenario("push", lambda site, place: ["push", f"{place / 'remote'}", *_cache(place)], _without("remote")),
    Scenario("pull", lambda site, place: ["pull", f"{place / 'remote'}", *_cache(place)], _without("cache")),
    Scenario("verify", lambda site, place: ["verify", "--deep", *_cache(place)], _without("cache/.verified")),
    Scenario("report", lambda site, place: ["report", f"{place / 'runs' / 'a'}", "--out", f"{place / 'page'}"]),
)


def attacks(runs: int = RUNS) -> list[Attack]:
    """Every scenario, killed so many times: by turns before a step and at a moment."""
    return [
        Attack(f"kills/{scenario.name}/{number}", partial(_kill, scenario, by_step=number % 2 == 0))
        for scenario in SCENARIOS
        for number in range(runs)
    ]


@dataclass(frozen=True)
class Undisturbed:
    """What a scenario begins with, and what it comes to where nobody disturbs it."""

    begin: Path
    before: dict[str, str]
    after: dict[str, str]
    arrays: dict[str, dict[str, str]]
    steps: int
    seconds: float


@cache
def _undisturbed(ground: Ground, scenario: Scenario) -> Undisturbed:
    begin = fresh_copy(ground.site, ground.folder / "begin" / scenario.name)
    shutil.rmtree(begin / "part")  # litter of its own
    scenario.begin(ground, begin)
    with ground.empty() as folder:
        place = Path(shutil.copytree(begin, folder / "copy"))
        words = scenario.words(ground.site, place)
        (ended,) = ground.run(words, limits=Limits(root=place))
        if ended.exit:
            raise RuntimeError(f"{ended.what} fails undisturbed: {last_line(ended)}")
        _clean(ground, place)
        return Undisturbed(begin, committed(begin), contents(place), complete_arrays(begin), ended.steps, ended.seconds)


def _caches(place: Path) -> list[str]:
    return [name for name in ("cache", "remote") if (place / name).is_dir()]


def _clean(ground: Ground, place: Path) -> list[Ended]:
    """Cleans as somebody does who comes later: what a process leaves that died with a lease is kept for two minutes."""
    for note in place.rglob(".leases/**/*"):
        os.utime(note, (time.time() - 600,) * 2)
    return ground.run(*(["gc", "--delete", *_cache(place, name)] for name in _caches(place)))


def _kill(scenario: Scenario, ground: Ground, random: Random, *, by_step: bool) -> Iterable[Problem]:
    calm = _undisturbed(ground, scenario)
    step, moment = random.randint(1, max(1, calm.steps)), random.random() * calm.seconds
    by_step = by_step and calm.steps > 0  # verify writes next to nothing
    for attempt in range(5):  # a moment may come too late
        with ground.empty() as folder:
            place = Path(shutil.copytree(calm.begin, folder / "copy"))
            words = scenario.words(ground.site, place)
            limit = {"kill_step": step} if by_step else {"kill_after": moment / 2**attempt}
            (ended,) = ground.run(words, limits=Limits(root=place, **limit))
            if ended.killed:
                yield from _after_the_kill(scenario, calm, ground, place, words)
                return
            step = max(1, step // 2)
    yield from badly_ended(ended)
    raise RuntimeError(f"{ended.what} ends before it can be killed")


def _after_the_kill(
    scenario: Scenario, calm: Undisturbed, ground: Ground, place: Path, words: list[str]
) -> Iterator[Problem]:
    yield from _lost(scenario, calm, place)
    if not scenario.mends:
        yield from _not_clean(_verified(ground, place), "directly after the kill")
    (again,) = ground.run(words)
    yield from badly_ended(again)
    if again.exit not in scenario.ends:
        yield Problem("lost", f"{again.what} does not go on: {last_line(again)}")
    yield from _settled(calm, ground, place)


def _lost(scenario: Scenario, calm: Undisturbed, place: Path) -> Iterator[Problem]:
    """What was acknowledged before the kill and is not there any more, or not as it was."""
    now = committed(place)
    for path, value in now.items():
        # COMPLETE and records of arrays under way may still change their writers, never a chunk its bytes
        if "/c." in path and value not in (calm.before.get(path), calm.after.get(path)):
            yield Problem("lost", f"{path} has a record and other bytes than an undisturbed run")
    if not scenario.removes:
        gone = [path for path in calm.before if path in calm.after and path not in now]
        if gone and not scenario.mends:
            yield Problem("lost", f"{len(gone)} files of complete arrays are gone, the first {gone[0]}")
    elif scenario.name.startswith("mv"):
        arrays = complete_arrays(place)
        gone = [digest for digest, chunks in calm.arrays.items() if arrays.get(digest) != chunks]
        if gone:
            yield Problem("lost", f"complete arrays are gone: {', '.join(gone)}")


def _settled(calm: Undisturbed, ground: Ground, place: Path) -> Iterator[Problem]:
    """Nothing but the undisturbed result is there once gc has cleaned."""
    yield from _not_clean(_clean(ground, place), "at the end")
    yield from _not_clean(_verified(ground, place), "at the end")
    if left := litter(place):
        yield Problem("lost", f"gc --delete leaves {', '.join(left[:5])}")
    if other := differences(calm.after, contents(place)):
        yield Problem("lost", f"not the result of an undisturbed run: {'; '.join(other[:5])}")


def _verified(ground: Ground, place: Path) -> list[Ended]:
    runs = [run for run in sorted((place / "runs").iterdir()) if not run.name.startswith(".")]
    return ground.run(
        *(["verify", "--deep", *_cache(place, name)] for name in _caches(place)),
        *(["verify", f"{run}"] for run in runs),
    )


def _not_clean(ended: list[Ended], when: str) -> Iterator[Problem]:
    for each in ended:
        yield from badly_ended(each)
        if each.exit == 1:  # 2: there is no cache yet
            said = (each.err.strip() or each.out.strip()).partition("\n")[0]
            yield Problem("lost", f"{when}, {each.what}: {said}")
