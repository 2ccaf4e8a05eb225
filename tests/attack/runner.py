"""The run of many attacks: the site made once, attacks handed to worker processes, results tallied."""

import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.attack import bombs, kills, malformed, races, remote, single_faults
from tests.attack.attacks import HARMS, Attack, Ground, Problem
from tests.attack.children import preload
from tests.attack.site import build, in_small_chunks, warm_up

Result = tuple[Attack, list[Problem] | None]  # None: it cannot be done here
REPRODUCE = ".venv/bin/python -m tests.attack --seed {seed} --only {name}"


def every_attack(seed: int) -> list[Attack]:
    """All attacks of a seed, in the order of their kinds."""
    return [
        *kills.attacks(),
        *single_faults.attacks(),
        *malformed.attacks(seed),
        *bombs.attacks(),
        *remote.attacks(),
        *races.attacks(),
    ]


class Run:
    """One run.

    Args:
        folder: An empty folder for everything.
        seed: Of every draw.
        only: Beginning of the names of the attacks to be done.
    """

    def __init__(self, folder: Path, seed: int, only: str = "") -> None:
        self.folder, self.seed = folder, seed
        preload()
        self.attacks = [attack for attack in every_attack(seed) if _chosen(attack.name, only)]

    def all(self, workers: int) -> int:
        """Does the attacks, prints each problem and the table; the exit code: 1 if there is a problem."""
        began = time.monotonic()
        results = self.results(workers)
        print(table(results), f"{(time.monotonic() - began) / 60:.1f} minutes", sep="\n")
        return int(any(problems for _, problems in results))

    def results(self, workers: int) -> list[Result]:
        """Does the attacks and prints each problem."""
        with in_small_chunks():
            warm_up()
            (self.folder / "site").mkdir(parents=True)
            ground = Ground(build(self.folder / "site"), self.folder)
            alone = [number for number, attack in enumerate(self.attacks) if attack.kind == "races"]
            others = [number for number in range(len(self.attacks)) if number not in alone]
            # a race has processes enough
            return self._shared_out(ground, others, workers) + self._shared_out(ground, alone, 1)

    def _shared_out(self, ground: Ground, todo: Sequence[int], workers: int) -> list[Result]:
        numbers, mouth = os.pipe()
        os.write(mouth, b"".join(number.to_bytes(4, "little") for number in todo))
        os.close(mouth)
        pids = [self._worker(ground, numbers, worker) for worker in range(workers)]
        os.close(numbers)
        for pid in pids:
            os.waitpid(pid, 0)
        results: list[Result] = []
        for worker in range(workers):
            for line in (self.folder / f"results-{worker}").read_text().splitlines():
                number, problems = json.loads(line)
                there = problems is not None
                results.append((self.attacks[number], [Problem(**each) for each in problems] if there else None))
        missing = len(todo) - len(results)
        if missing:
            raise RuntimeError(f"{missing} attacks were not done: a worker died")
        return results

    def _worker(self, ground: Ground, numbers: int, worker: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            folder = self.folder / f"worker-{worker}"
            folder.mkdir(exist_ok=True)
            mine = Ground(ground.site, folder)
            with (self.folder / f"results-{worker}").open("w") as file:
                while number := os.read(numbers, 4):
                    attack = self.attacks[int.from_bytes(number, "little")]
                    problems = self._done(attack, mine)
                    told = None if problems is None else [*map(asdict, problems)]
                    print(json.dumps([int.from_bytes(number, "little"), told]), file=file, flush=True)
            remote.close(mine)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def _done(self, attack: Attack, ground: Ground) -> list[Problem] | None:
        """What came of an attack, printed; None where it cannot be done here."""
        try:
            problems = attack.problems(ground, self.seed)
        except remote.NotThere as why:
            print(f"{attack.name}: not done: {why}", flush=True)
            return None
        except Exception:  # of the harness itself, or of a site that cannot be made
            problems = [Problem("traceback", f"the attack itself fails: {traceback.format_exc()[-1500:]}")]
        for problem in problems:
            print(f"{attack.name}: {problem.harm}: {problem.what}")
        if problems:
            print(f"  again: {REPRODUCE.format(seed=self.seed, name=attack.name)}")
        sys.stdout.flush()
        return problems


def _chosen(name: str, only: str) -> bool:
    return name == only if only.rpartition("/")[2].isdigit() else name.startswith(only)


def table(results: Sequence[Result]) -> str:
    """Kind by kind: attacks, and how many of them did which harm; those on a bucket or the Hub apart."""
    attacks: Counter[str] = Counter()
    harmed: Counter[tuple[str, str]] = Counter()
    for attack, problems in results:
        row = next(
            (f"{attack.kind}, {place}" for place in ("bucket", "hub") if f"/{place}-" in attack.name), attack.kind
        )
        attacks[row if problems is not None else f"{row}, not done"] += 1
        harmed.update((row, harm) for harm in {each.harm for each in problems or ()})
    rows = [(kind, number, *(harmed[kind, harm] for harm in HARMS)) for kind, number in attacks.items()]
    done = [row for row in rows if not row[0].endswith("not done")]
    rows.append(("together", *(sum(int(row[column]) for row in done) for column in range(1, 2 + len(HARMS)))))
    lines = [("kind", "attacks", *HARMS), *rows]
    return "\n".join(f"{line[0]!s:<24}" + "".join(f"{each!s:>14}" for each in line[1:]) for line in lines)
