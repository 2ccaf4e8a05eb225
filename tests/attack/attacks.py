"""What an attack is, and which ends of a command are a problem."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, get_args

from tests.attack.children import UNLIMITED, Ended, Limits, Surroundings, Task, run_all
from tests.attack.site import Site, fresh_copy, quiet_environment

Harm = Literal["silent", "traceback", "lost", "hung or huge"]
HARMS: tuple[Harm, ...] = get_args(Harm)

# commands that name damage on stdout and end with 1
REPORTING = ("verify", "repair", "doctor", "gc")
_NAMED = re.compile(r"^(\w+): \S", re.MULTILINE)
# what polars says of a panic that is caught is no traceback
_UNCAUGHT = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Problem:
    """What an attack achieved that it must not.

    Args:
        harm: silent: other numbers, or damage that nobody names, with exit code 0. traceback: an exception that is
            none of ours, or a death. lost: what was acknowledged is gone, or cannot be had again, or litter stays.
        what: One sentence.
    """

    harm: Harm
    what: str


@dataclass(frozen=True)
class Ground:
    """Where an attack takes place.

    Args:
        site: What is attacked; never changed.
        folder: Empty folders for attacks are made below it.
    """

    site: Site
    folder: Path

    @contextmanager
    def empty(self) -> Iterator[Path]:
        """An empty folder, gone afterwards."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    @contextmanager
    def copy(self) -> Iterator[Path]:
        """A copy of the site, gone afterwards."""
        with self.empty() as place:
            yield fresh_copy(self.site, place / "copy")

    def run(self, *tasks: Task, limits: Limits = UNLIMITED, around: Surroundings | None = None) -> list[Ended]:
        """Runs tasks one after the other, in a child, with a home of its own."""
        return run_all(tasks, limits, around or quiet_environment(self.folder))


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        name: "kind/what/number": enough, with the seed, to do it again.
        against: Does it and says what it achieved.
    """

    name: str
    against: Callable[[Ground, Random], Iterable[Problem]]

    @property
    def kind(self) -> str:
        """The first part of the name."""
        return self.name.partition("/")[0]

    def problems(self, ground: Ground, seed: int) -> list[Problem]:
        """Does the attack; draws are those of seed and name, whatever else is run."""
        return list(self.against(ground, Random(f"{seed} {self.name}")))


def error_names() -> set[str]:
    """Names of our errors, of the system's, and what typer says of wrong words."""
    from featcache.data.errors import DataError
    from featcache.errors import FeatcacheError
    from featcache.metrics.errors import MetricError

    def below(kind: type[BaseException]) -> Iterator[str]:
        yield kind.__name__
        for each in kind.__subclasses__():
            yield from below(each)

    return {name for kind in (DataError, FeatcacheError, MetricError, OSError) for name in below(kind)} | {"Error"}


def badly_ended(ended: Ended) -> list[Problem]:
    """How no command may end, whatever was done to its files: without a word, with a traceback, or not at all."""
    words = f"{ended.what}: "
    if ended.hung:
        return [Problem("hung or huge", f"{words}did not end in {ended.seconds:.0f} s")]
    if ended.exit < 0 or ended.exit > 2:
        return [Problem("traceback", f"{words}died with {ended.exit}: {last_line(ended)}")]
    if _UNCAUGHT in ended.err or _UNCAUGHT in ended.out:
        return [Problem("traceback", f"{words}{last_line(ended)}")]
    if ended.exit and not callable(ended.task):
        named = {name for name in _NAMED.findall(ended.err)} & error_names()
        reported = ended.task[0] in REPORTING and ended.out.strip()
        if not named and not reported:
            return [Problem("traceback", f"{words}exit code {ended.exit} without a named error: {last_line(ended)}")]
    return []


def last_line(ended: Ended) -> str:
    """The last line that says something."""
    lines = [line for line in (ended.err or ended.out).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was said"
