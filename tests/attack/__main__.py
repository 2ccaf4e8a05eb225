"""Runs the attacks in two processes and prints the table: python -m tests.attack --seed 0 [--only kills/train]."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.attack.runner import Run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="seed of every draw; default: one of the clock")
    parser.add_argument("--only", default="", help="attacks whose name begins with this, as in kills/train/3")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="where caches are made; default: a temporary folder")
    words = parser.parse_args()
    seed = int(time.time()) % 100_000 if words.seed is None else words.seed
    with tempfile.TemporaryDirectory(dir=words.folder) as folder:
        run = Run(Path(folder), seed, words.only)
        print(f"seed {seed}, {len(run.attacks)} attacks", flush=True)
        return run.all(words.workers)


if __name__ == "__main__":
    sys.exit(main())
