"""Encoders of two synthetic modalities trained together, by the weight of a contrastive loss beside the task's."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from featcache.data.synthetic.generator import Generator, Modalities, modalities
from featcache.errors import UsageError
from featcache.metrics.sweeps.released_layers import released_layer, released_scores, unit_rows
from featcache.storage.outputs import parquet_bytes, write_output
from featcache.studies.emergence.pool import OnProgress, OnShare, Work, run_blocks
from featcache.studies.emergence.synthetic.encoders import ROWS, K
from featcache.studies.emergence.synthetic.population import population_cka
from featcache.studies.emergence.together.kept import kept_bits
from featcache.studies.emergence.together.uses import TrainedPairs, use_accuracies
from featcache.studies.experiments.seeds import student

if TYPE_CHECKING:
    import polars as pl

    from featcache.trainer.ensembles.pairs import PairMember

ProfileName = Literal["quick", "standard", "lengths"]
LAMBDAS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
SEEDS_FOR_INTERVAL = 3
CELL = ("generator", "uniqueness", "phi_depth", "steps", "private", "lambda", "use", "side", "labels")
OnStep = Callable[[int, int], None]  # steps done, of how many


@dataclass(frozen=True)
class PairSettings:
    """How pairs of encoders are built and trained.

    Args:
        steps: Of the optimiser. What contrast costs depends on it: it slows what the task still has to learn.
        width: Of the hidden layers.
        depth: Hidden layers of each encoder.
        features: Width of each encoder's features.
        batch: Rows a step, of which 128 at most are contrasted.
        learning_rate: The highest.
        probe_steps: Of the probes with a hidden layer that are fitted on frozen features.
    """

    steps: int = 4_000
    width: int = 32
    depth: int = 3
    features: int = 16
    batch: int = 512
    learning_rate: float = 0.005
    probe_steps: int = 400


@dataclass(frozen=True)
class TogetherProfile:
    """What is trained: every weight of the contrastive loss at every level, map and seed.

    Args:
        levels: Of the label tables.
        phi_depths: Maps of the second modality.
        lambdas: Weights of the contrastive loss beside the task's, 0 among them: what the others are compared with.
        seeds: Of initial values and order of rows.
        settings: Of every pair.
        private: Features of each encoder that the contrastive loss does not see, of a second pair at each weight above
            0: the remedy. 0: no such pair.
        draws: Of few labelled rows.
        lengths: Steps of further trainings, in place of those of the settings; none: those of the settings.
    """

    levels: tuple[int, ...]
    phi_depths: tuple[int, ...]
    lambdas: tuple[float, ...]
    seeds: tuple[int, ...]
    settings: PairSettings
    private: int = 8
    draws: int = 20
    lengths: tuple[int, ...] = ()


_STANDARD = PairSettings(4_000, batch=256, learning_rate=0.02)
PROFILES: Mapping[ProfileName, TogetherProfile] = {
    "quick": TogetherProfile((0, 4, 8), (1, 7), (0.0, 0.5, 2.0), (0,), replace(_STANDARD, steps=1_000), draws=10),
    "standard": TogetherProfile((0, 2, 4, 6, 8), (1, 7), LAMBDAS, (0, 1, 2, 3, 4), _STANDARD),
    # whether contrast costs, or only slows
    "lengths": TogetherProfile(
        (4, 8), (1,), (0.0, 1.0, 5.0), (0, 1, 2), _STANDARD, 0, lengths=(500, 1_000, 2_000, 4_000, 8_000, 16_000)
    ),
}


@dataclass(frozen=True)
class PairBlock:
    """The pairs of one level, map and seed, trained as one ensemble.

    Args:
        generator: Of the modalities.
        level: Of the label table.
        phi_depth: Of the map of the second modality.
        seed: Of all pairs.
        lambdas: Weights of the contrastive loss.
        private: As of `TogetherProfile`.
        settings: Of every pair.
        draws: Of few labelled rows.
    """

    generator: Generator
    level: int
    phi_depth: int
    seed: int
    lambdas: tuple[float, ...]
    private: int
    settings: PairSettings
    draws: int

    @property
    def name(self) -> str:
        """A folder name that two blocks share only if they train the same."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        return f"together-u{self.level}-phi{self.phi_depth}-seed{self.seed}-{digest}"


@dataclass(frozen=True, eq=False)
class TogetherTables:
    """The tables of the study.

    Args:
        folder: Where they lie.
        together: One row a pair and use.
        kept: One row a pair, encoder, bit and probe.
        effects: One row a weight above 0 and use: accuracy less that at weight 0, paired by seed.
    """

    folder: Path
    together: "pl.DataFrame"
    kept: "pl.DataFrame"
    effects: "pl.DataFrame"


def run_together(
    generator: Generator,
    profile: TogetherProfile,
    folder: Path,
    *,
    processes: int | None = 1,
    on_progress: OnProgress | None = None,
) -> TogetherTables:
    """Trains every pair of a profile and measures it; blocks that are there are not computed again.

    Args:
        generator: Of the modalities.
        profile: Levels, maps, weights, seeds and steps.
        folder: Gets together.parquet, kept.parquet, effects.parquet, and blocks/ with the rows of each.
        processes: At a time, of one thread each; 0 trains in this process.
        on_progress: Called with the share that is done.

    Raises:
        UsageError: If a level or map is not one of the generator, or weight 0 is not among the weights.
        OutputFailed: If the folder cannot be written.
    """
    blocks = together_blocks(generator, profile)
    run_blocks(Work(run_block, lambda block: block.name, _cost), blocks, folder, processes, on_progress)
    return gather(blocks, folder)


def together_blocks(generator: Generator, profile: TogetherProfile) -> list[PairBlock]:
    """The blocks of a profile, for `run_blocks` with those of other studies.

    Raises:
        UsageError: As `run_together`.
    """
    unknown = [level for level in profile.levels if level not in generator.levels]
    if unknown or not profile.levels:
        raise UsageError(f"{generator.name} has no level {unknown}: there are {list(generator.levels)}")
    if min(profile.lambdas, default=-1.0) != 0.0 or max(profile.lambdas) == 0.0:
        raise UsageError(
            f"lambda {list(profile.lambdas)}: wanted 0, which the others are compared with, and numbers above"
        )
    if not 0 <= profile.private < profile.settings.features:
        raise UsageError(f"{profile.private} private features: wanted fewer than {profile.settings.features}")
    lengths = profile.lengths or (profile.settings.steps,)
    return [
        PairBlock(
            generator, level, phi_depth, seed, profile.lambdas, profile.private, replace(profile.settings, steps=steps),
            profile.draws,
        )
        for steps in lengths
        for level in profile.levels
        for phi_depth in profile.phi_depths
        for seed in profile.seeds
    ]  # fmt: skip


def run_block(block: PairBlock, folder: Path, on_share: OnShare) -> None:
    """Trains the pairs of a block, measures them, and writes their rows; nothing where they are there.

    Args:
        block: What is trained.
        folder: Of the study.
        on_share: Called with the share done.
    """
    from featcache.trainer.ensembles.probes import MlpProbeFit

    place, fit = folder / "blocks" / block.name, MlpProbeFit(steps=block.settings.probe_steps)
    if (place / "block.json").is_file():
        return on_share(1.0)
    pairs = train_pairs(
        block.generator, block.level, block.phi_depth, block.lambdas, (block.seed,), settings=block.settings,
        private=block.private, on_step=lambda step, steps: on_share(0.8 * step / steps),
    )  # fmt: skip
    keys = [_keys(block, pairs, member) for member in pairs.members]
    uses = [
        {**key, **asdict(row), **alignment}
        for key, rows, alignment in zip(keys, use_accuracies(pairs, block.draws, fit), alignments(pairs), strict=True)
        for row in rows
    ]
    write_output(place / "together.parquet", parquet_bytes(_frame(uses)))
    on_share(0.9)
    kept = [{**key, **asdict(row)} for key, rows in zip(keys, kept_bits(pairs, fit), strict=True) for row in rows]
    write_output(place / "kept.parquet", parquet_bytes(_frame(kept)))
    described = {**asdict(block), "generator": repr(block.generator)}
    write_output(place / "block.json", (json.dumps(described, indent=1) + "\n").encode())
    on_share(1.0)


def train_pairs(
    generator: Generator,
    level: int,
    phi_depth: int,
    lambdas: Sequence[float],
    seeds: Sequence[int],
    *,
    settings: PairSettings | None = None,
    private: int = 0,
    on_step: OnStep | None = None,
) -> TrainedPairs:
    """Trains a pair of encoders for each seed and weight of the contrastive loss on one data set.

    The task loss is the mean cross-entropy of three heads: one reads both modalities' features, two read one each, so
    that every encoder is also the best its own modality can do, whatever the other offers. Pairs of one seed start
    from the same values and see the same rows in the same order: they differ in lambda and in what of the features is
    aligned.

    Args:
        generator: Of the modalities.
        level: Of its label table: the number of unique bits that the label reads, of the released generator.
        phi_depth: Of the map of the second modality.
        lambdas: Weights of the contrastive loss beside the task loss.
        seeds: Of initial values and order of rows.
        settings: Sizes and steps; None: those of `PairSettings`.
        private: If above 0, each seed and weight above 0 has a second pair, with so many features of each encoder that
            the contrastive loss does not see.
        on_step: Called now and then with the steps done.

    Returns:
        The pairs, seed by seed: every weight with all features aligned, then those with private ones.

    Raises:
        DataInvalid: If there is no such level or map.
        TrainingDiverged: If parameters stopped being finite.
    """
    import torch

    from featcache.trainer.ensembles.pairs import PairFit, PairMember, PairRows, PairShape, fit_pairs, initial_pairs

    sizes, data = settings or PairSettings(), _data(generator, level, phi_depth)
    shape = PairShape(
        (data.inputs1.shape[1], data.inputs2.shape[1]), generator.classes, sizes.width, sizes.depth, sizes.features
    )
    members = [
        PairMember(weight, seed, sizes.features - hidden)
        for seed in seeds
        for hidden in ([0, private] if private else [0])
        for weight in lambdas
        if weight > 0 or not hidden
    ]
    ensemble, train = initial_pairs(shape, members), data.parts["train"]
    x1, x2, inputs1, inputs2 = (
        torch.from_numpy(values).float() for values in (train.x1, train.x2, data.inputs1, data.inputs2)
    )
    batch = min(sizes.batch, len(train.labels))
    rates = replace(PairFit.rates, learning_rate=sizes.learning_rate)
    fit = PairFit(sizes.steps, rates, batch=batch, contrast_rows=min(PairFit.contrast_rows, batch))
    fit_pairs(ensemble, members, PairRows(x1, x2, torch.from_numpy(train.labels)), fit, on_step)
    with torch.no_grad():
        every = (inputs.T.expand(len(members), -1, -1) for inputs in (inputs1, inputs2))
        features = [values.mT.contiguous().numpy() for values in ensemble.encode(*every)]
    return TrainedPairs(data, members, ensemble, (features[0], features[1]))


def alignments(pairs: TrainedPairs) -> list[dict[str, float | None]]:
    """Alignment of the features of both encoders, rows brought to length 1, of each pair.

    Returns:
        cka_population: linear, exact over all inputs; mutual_knn: k = 100 of the first 512 test rows. None where a side
        is constant.

    Raises:
        TooFewRows: If there are not more than 100 test rows.
    """
    scores: list[dict[str, float | None]] = []
    shared = (len(pairs.data.table) - 1).bit_length()
    for number in range(len(pairs.members)):
        rows = pairs.rows(number, "test")
        cka = population_cka(unit_rows(pairs.features[0][number]), unit_rows(pairs.features[1][number]), shared)
        near = released_scores(*(released_layer(side[:ROWS], k=K) for side in rows))["mutual_knn"]
        scores.append({"cka_population": cka, "mutual_knn": near})
    return scores


def effects(together: "pl.DataFrame", oracles: "pl.DataFrame | None" = None) -> "pl.DataFrame":
    """Accuracy at each weight above 0 less that at weight 0, paired by seed, in every use.

    Args:
        together: Rows of `TogetherTables.together`.
        oracles: One row a generator and uniqueness, joined if given: exact redundancy, uniqueness and synergy.

    Returns:
        The columns CELL (steps: those of the training), then effect, low, high and p (Student's t over seeds; none
        below SEEDS_FOR_INTERVAL seeds or without spread), accuracy (mean at that weight), baseline (mean at weight 0)
        and seeds; the oracles' columns behind.
    """
    import polars as pl

    seed = [name for name in CELL if name not in ("private", "lambda")]
    zero = together.filter(pl.col("lambda") == 0).select(*seed, "seed", baseline=pl.col("accuracy"))
    paired = together.filter(pl.col("lambda") > 0).join(zero, on=[*seed, "seed"])
    rows: list[dict[str, Any]] = []
    for key, cell in paired.group_by(CELL, maintain_order=True):
        differences = (cell["accuracy"] - cell["baseline"]).to_list()
        mean, *interval = student(differences)
        if len(differences) < SEEDS_FOR_INTERVAL:
            interval = [None] * 3
        rows.append(
            {**dict(zip(CELL, key, strict=True)), "effect": mean}
            | dict(zip(("low", "high", "p"), interval, strict=True))
            | {"accuracy": cell["accuracy"].mean(), "baseline": cell["baseline"].mean(), "seeds": len(differences)}
        )
    table = pl.DataFrame(
        rows, infer_schema_length=None, schema_overrides=dict.fromkeys(("low", "high", "p"), pl.Float64)
    )
    return table if oracles is None else table.join(oracles, on=["generator", "uniqueness"], how="left")


def gather(blocks: Sequence[PairBlock], folder: Path) -> TogetherTables:
    """Joins the rows of blocks that have run into the tables of the study, and writes them.

    Args:
        blocks: All have run.
        folder: Of the study.
    """
    import polars as pl

    def table(name: str) -> "pl.DataFrame":
        return pl.concat(
            [pl.read_parquet(folder / "blocks" / block.name / f"{name}.parquet") for block in blocks],
            how="vertical_relaxed",
        )

    together = table("together")
    tables = TogetherTables(folder, together, table("kept"), effects(together))
    for name in ("together", "kept", "effects"):
        write_output(folder / f"{name}.parquet", parquet_bytes(getattr(tables, name)))
    return tables


@lru_cache(maxsize=2)
def _data(generator: Generator, level: int, phi_depth: int) -> Modalities:
    return next(iter(modalities(generator, level, [phi_depth])))


def _cost(block: PairBlock) -> float:
    remedy = sum(weight > 0 for weight in block.lambdas) if block.private else 0
    return block.settings.steps * float(len(block.lambdas) + remedy)


def _keys(block: PairBlock, pairs: TrainedPairs, member: "PairMember") -> dict[str, Any]:
    return {
        "generator": block.generator.name,
        "uniqueness": block.level,
        "phi_depth": block.phi_depth,
        "steps": block.settings.steps,
        "lambda": member.contrast,
        "private": pairs.ensemble.shape.features - member.aligned,
        "seed": member.seed,
    }


def _frame(rows: Iterable[dict[str, Any]]) -> "pl.DataFrame":
    import polars as pl

    return pl.DataFrame(list(rows), infer_schema_length=None)
