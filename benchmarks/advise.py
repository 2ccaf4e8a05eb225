"""Advice against what training together does: answers right, wrong and open, and exact parts that bounds cover.

Encoders of synthetic modalities are trained apart (lambda = 0) and together (lambda = 1), five seeds each; `advise`
reads the features of those trained apart. Where exact accuracy changes by .05 or more, an answer is right, wrong or
open. Beside it stands a rule that looks at nothing: align for a transfer, else keep apart. Margins were chosen on the
released generator. What is in the folder is not computed again. Two limits: no wrong answer, and at most 20 % open.

    python benchmarks/advise.py [--out build/advise] [--rows 24000]
"""

import argparse
from pathlib import Path
from time import process_time

import polars as pl
import torch
from rounds import processor

from featcache.studies.advise.settings import ALIGN, APART
from featcache.studies.advise.validation import (
    FROZEN_ON,
    JUDGED_ON,
    bits_coverage,
    calibration_table,
    judged,
    run_validation,
)
from featcache.studies.emergence.synthetic.generators import open_generator

MOST_OPEN = 0.2
COVERED = 0.95
BITS = [("released", level) for level in range(9)] + [("unique_for_redundancy", 4), ("synergy", 4)]


def show_answers(rows: pl.DataFrame) -> None:
    """The calibration table, and the rule that looks at nothing."""
    print("\n| set | use | answers | effect of .05 or more | right | wrong | cannot tell | rank correlation |")
    print("|---|---|---|---|---|---|---|---|")
    for row in calibration_table(rows).iter_rows(named=True):
        counts = " | ".join(str(row[name]) for name in ("answers", "cells", "right", "wrong", "open"))
        print(f"| {row['set']} | {row['use']} | {counts} | {row['rank']:.2f} |")
    large = rows.filter(pl.col("outcome") != "small")
    fixed = [
        judged(ALIGN if use == "transfer" else APART, exact, private)
        for use, exact, private in large.select("use", "exact", "exact_private").iter_rows()
    ]
    wrong, still = (large["outcome"] == "wrong").sum(), (large["outcome"] == "open").sum()
    print(f"\nwrong: {wrong} of {len(large)} (limit 0); the rule that looks at nothing: {fixed.count('wrong')}")
    print(f"cannot tell: {still / len(large):.3f} (limit {MOST_OPEN:g})")


def show_coverage(rows: int) -> None:
    """Exact informations and parts of the bits themselves, and what was found."""
    print(f"\nbits themselves, {rows:,} rows: found less exact, in nats")
    print("| generator | level | I1 | I2 | I12 | redundancy | unique 1 | unique 2 | synergy | covered |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    covered = there = 0
    for name, level in BITS:
        found = bits_coverage(open_generator(name), level, rows=rows)
        cells = " | ".join(f"{one.exact:.3f} {one.value - one.exact:+.3f}" for one in found)
        inside = sum(one.covered for one in found[3:])
        print(f"| {name} | {level} | {cells} | {inside} of 4{'' if found[0].close else ', too far off'} |", flush=True)
        if found[0].close:
            covered, there = covered + inside, there + 4
    print(f"covered where informations are within .02 nats: {covered} of {there} (limit {COVERED:g})")


def main() -> None:
    """Runs the validation, or reads it, and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/advise"))
    parser.add_argument("--rows", type=int, default=24_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}, one thread")
    started = process_time()
    rows = run_validation((*FROZEN_ON, *JUDGED_ON), folder=options.out, on_step=lambda step: print(step, flush=True))
    show_answers(rows)
    show_coverage(options.rows)
    print(f"CPU time: {process_time() - started:.0f} s")


if __name__ == "__main__":
    main()
