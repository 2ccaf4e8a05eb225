"""The study of encoders trained together: its blocks, its tables, and its intervals over seeds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featcache.data.synthetic.released import Released
from featcache.errors import UsageError
from featcache.studies.emergence.together import training as together
from featcache.studies.emergence.together.training import (
    CELL,
    PROFILES,
    PairSettings,
    TogetherProfile,
    TogetherTables,
    effects,
    run_together,
    together_blocks,
)
from featcache.studies.emergence.together.uses import LABELS, USES

SMALL = Released(shared=4, unique=2, used=4, rows=1_500)
PROFILE = TogetherProfile(
    (4,),
    (1,),
    (0.0, 2.0),
    (0, 1, 2),
    PairSettings(steps=20, width=8, depth=1, features=6, probe_steps=20),
    private=2,
    draws=2,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> TogetherTables:
    return run_together(SMALL, PROFILE, tmp_path_factory.mktemp("study"), processes=0)


def test_the_tables_have_every_pair_use_and_bit_once(study: TogetherTables) -> None:
    pairs = study.together.select(*CELL[:6], "seed").unique()
    assert len(pairs) == 3 * 3  # seeds, and lambda 0, 2, and 2 with private features
    assert study.together.select(*CELL, "seed").is_unique().all()
    assert set(study.together["use"]) == set(USES) and set(study.together["labels"]) == {0, *LABELS}
    assert len(study.kept) == len(pairs) * 2 * 6 * 2
    assert study.kept["accuracy"].is_between(0, 1).all()
    assert study.together["cka_population"].is_between(0, 1).all()
    for name in ("together", "kept", "effects"):
        assert pl.read_parquet(study.folder / f"{name}.parquet").equals(getattr(study, name))


def test_blocks_that_are_there_are_not_trained_again_and_others_are(
    study: TogetherTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(together, "train_pairs", refuse)
    shares: list[float] = []
    again = run_together(SMALL, PROFILE, study.folder, processes=0, on_progress=lambda share, _: shares.append(share))
    assert again.together.equals(study.together) and shares[-1] == pytest.approx(1.0)
    longer = replace(PROFILE, settings=replace(PROFILE.settings, steps=21))
    with pytest.raises(AssertionError, match="trained again"):
        run_together(SMALL, longer, study.folder, processes=0)


def test_a_pair_is_the_same_whichever_others_are_trained_beside_it(study: TogetherTables, tmp_path: Path) -> None:
    fewer = replace(PROFILE, seeds=(1,), private=0)
    alone = run_together(SMALL, fewer, tmp_path, processes=0).together
    same = study.together.filter(seed=1, private=0)
    assert alone.select(*CELL).equals(same.select(*CELL))
    np.testing.assert_allclose(alone["accuracy"], same["accuracy"], atol=0.02)


def test_effects_are_differences_of_the_same_seed(study: TogetherTables) -> None:
    row = study.effects.filter(use="joint", private=0).row(0, named=True)
    own = study.together.filter(use="joint", private=0).sort("seed")
    with_, without = (own.filter(pl.col("lambda") == weight)["accuracy"].to_numpy() for weight in (2.0, 0.0))
    assert row["effect"] == pytest.approx(np.mean(with_ - without)) and row["seeds"] == 3
    assert row["baseline"] == pytest.approx(without.mean()) and row["low"] < row["effect"] < row["high"]
    oracles = pl.DataFrame({"generator": [SMALL.name] * 2, "uniqueness": [0, 4], "broja_redundancy": [1.0, 0.2]})
    joined = effects(study.together, oracles)
    assert set(joined["broja_redundancy"]) == {0.2} and len(joined) == len(study.effects)


def _noise(seeds: int, stream: np.random.Generator) -> pl.DataFrame:
    """Pairs for which lambda changes nothing: what seeds share, and noise of each pair."""
    shared, rows = stream.normal(0.8, 0.05, seeds), list[dict[str, object]]()
    key = dict(zip(CELL, ("g", 0, 1, 9, 0, 0.0, "joint", "both", 0), strict=True))
    for weight in (0.0, 1.0):
        rows += [
            key | {"lambda": weight, "seed": seed, "accuracy": shared[seed] + stream.normal(0, 0.01)}
            for seed in range(seeds)
        ]
    return pl.DataFrame(rows)


def test_without_an_effect_intervals_miss_zero_one_time_in_twenty() -> None:
    stream, missed, runs = np.random.default_rng(0), 0, 600
    for _ in range(runs):
        (row,) = effects(_noise(5, stream)).to_dicts()
        missed += row["low"] > 0 or row["high"] < 0
        assert (row["p"] < 0.05) == (row["low"] > 0 or row["high"] < 0)
    assert 0.03 < missed / runs < 0.075


def test_two_seeds_give_no_interval() -> None:
    (row,) = effects(_noise(2, np.random.default_rng(0))).to_dicts()
    assert row["low"] is None and row["high"] is None and row["p"] is None and row["seeds"] == 2


def test_what_cannot_be_trained_is_refused() -> None:
    for wrong, words in (
        ({"levels": (0, 9)}, "has no level"),
        ({"lambdas": (0.5,)}, "wanted 0, which the others"),
        ({"lambdas": (0.0,)}, "and numbers above"),
        ({"lambdas": (0.0, -1.0)}, "wanted 0, which the others"),
        ({"private": 6}, "wanted fewer than 6"),
    ):
        with pytest.raises(UsageError, match=words):
            together_blocks(SMALL, replace(PROFILE, **wrong))


def test_profiles_are_what_the_study_asks_for() -> None:
    quick, standard = PROFILES["quick"], PROFILES["standard"]
    assert (quick.levels, quick.phi_depths, quick.lambdas) == ((0, 4, 8), (1, 7), (0.0, 0.5, 2.0))
    assert standard.levels == (0, 2, 4, 6, 8) and standard.lambdas == together.LAMBDAS and len(standard.seeds) >= 5
    blocks = together_blocks(Released(), standard)
    assert len({block.name for block in blocks}) == len(blocks) == 50
    assert {block.settings.steps for block in blocks} == {standard.settings.steps}
    assert {block.settings.steps for block in together_blocks(Released(), PROFILES["lengths"])} == {
        *PROFILES["lengths"].lengths
    }
