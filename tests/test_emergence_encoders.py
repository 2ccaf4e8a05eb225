"""The study of encoders trained apart: its tables, exact values against enumeration, resumption, and processes."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from featcache.data.synthetic.generator import modalities
from featcache.data.synthetic.released import Released
from featcache.errors import UsageError
from featcache.metrics import cka, mutual_knn
from featcache.metrics.sweeps.released_layers import released_layer, released_scores, unit_rows
from featcache.studies.emergence.pool import Work, run_blocks
from featcache.studies.emergence.synthetic import encoders
from featcache.studies.emergence.synthetic.encoders import K, load_ensemble, run_block, run_encoders
from featcache.studies.emergence.synthetic.population import exact_accuracy, label_given, population_cka
from featcache.studies.emergence.synthetic.profiles import PROFILES, Profile, released_rates

# 5 bits a modality, so that every pair of inputs can be counted
SMALL = Released(shared=3, unique=2, used=3, classes=3, temperature=0.2, rows=4_000)
PROFILE = Profile(phi_depths=(1, 3), depths=(1, 2), seeds=(2,), steps1=60, steps2=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("emergence")
    run_encoders(SMALL, PROFILE, place, levels=(0, 3), processes=0)
    return place


def test_the_tables_have_one_row_an_encoder_and_one_a_pair_of_layers_and_metric(folder: Path) -> None:
    models, alignment = (pl.read_parquet(folder / f"{name}.parquet") for name in ("models", "alignment"))
    assert len(models) == 4 + 2 * 4  # two levels, two maps; one depth of the first modality, two of the second
    assert models.select("uniqueness", "phi_depth", "modality", "depth", "seed").is_unique().all()
    assert len(alignment) == 4 * (1 + 2) * 4  # layers of both depths, four metrics
    assert set(alignment["metric"]) == {"cka_clipped", "cka_debiased", "cka_population", "mutual_knn"}
    assert alignment.filter(metric="cka_population")["n"].null_count() == 12
    assert (models["accuracy"] <= models["bayes_accuracy"] + 1e-9).all()
    assert (models.filter(modality=1, uniqueness=0)["accuracy"] > 1 / 3 + 0.05).all()


def test_accuracies_and_alignment_are_those_of_the_kept_weights(folder: Path) -> None:
    models, alignment = (pl.read_parquet(folder / f"{name}.parquet") for name in ("models", "alignment"))
    block = encoders.plan(SMALL, PROFILE, (0, 3))[2]
    assert (block.modality, block.depth) == (1, 2)
    member = block.members.index((3, 3))
    network = load_ensemble(block, folder).member(member)
    assert block.reference is not None
    first = load_ensemble(block.reference, folder).member(member)
    (data,) = modalities(SMALL, 3, [3])
    row = models.filter(uniqueness=3, phi_depth=3, modality=1, depth=2).row(0, named=True)
    with torch.no_grad():
        logits = network(torch.from_numpy(data.inputs2))
        probabilities = logits.softmax(dim=1).double().numpy()
        test = network(torch.from_numpy(data.parts["test"].x2)).argmax(dim=1).numpy()
        hidden = network[:2](torch.from_numpy(data.parts["test"].x2[:512])).numpy()
        reference = first[:2](torch.from_numpy(data.parts["test"].x1[:512])).numpy()
    # p(y | x2) counted over every cell
    exact, entropy = 0.0, 0.0
    for shared in range(8):
        for unique1 in range(4):
            for unique2 in range(4):
                label, code = data.table[shared, unique1, unique2], shared * 4 + unique2
                exact += label[int(logits[code].argmax())] / 128
                entropy -= float(label @ np.log(probabilities[code])) / 128
    assert row["accuracy"] == pytest.approx(exact, abs=1e-9)
    assert row["cross_entropy"] == pytest.approx(entropy, abs=1e-6)
    assert row["test_accuracy"] == pytest.approx(np.mean(test == data.parts["test"].labels))
    scores = alignment.filter(uniqueness=3, phi_depth=3, depth=2, layer1=1)
    value = dict(zip(scores["metric"], scores["value"], strict=True))
    x, y = unit_rows(reference), unit_rows(hidden)
    assert value["cka_debiased"] == pytest.approx(cka(x, y, debiased=True), abs=1e-6)
    assert value["mutual_knn"] == pytest.approx(mutual_knn(x, y, k=K), abs=1e-3)


def test_population_cka_is_what_debiased_cka_of_all_pairs_of_inputs_tends_to() -> None:
    rng = np.random.default_rng(0)
    h1, h2 = rng.standard_normal((32, 5)), rng.standard_normal((32, 4))
    h1[:, 0] += np.repeat(np.arange(8), 4)
    h2[:, 1] += np.repeat(np.arange(8), 4)
    # every pair of inputs that share their first three bits, often enough for the estimate's bias to vanish
    pairs = [(shared * 4 + a, shared * 4 + b) for shared in range(8) for a in range(4) for b in range(4)] * 30
    rows1, rows2 = (np.array(side) for side in zip(*pairs, strict=True))
    exact = population_cka(h1, h2, 3)
    assert exact == pytest.approx(cka(h1[rows1], h2[rows2]), abs=1e-9)
    assert population_cka(h1, 3 * h2 + 1, 3) == pytest.approx(exact)
    assert population_cka(np.ones((32, 2)), h2, 3) is None


def test_exact_accuracy_of_the_best_classes_is_bayes() -> None:
    label = label_given(SMALL.table(2), 1)
    assert label.shape == (32, 3)
    assert exact_accuracy(label, label.argmax(axis=1)) == pytest.approx(label.max(axis=1).mean())


def test_a_layer_that_is_constant_or_has_zero_rows_scores_none_and_clips_to_0() -> None:
    x = np.random.default_rng(0).standard_normal((200, 4))
    assert _scores(x, np.ones((200, 3))) == {"cka_clipped": 0.0, "cka_debiased": None, "mutual_knn": None}
    dead = np.maximum(np.random.default_rng(1).standard_normal((200, 1)), 0)
    assert _scores(x, dead)["mutual_knn"] is None
    apart = _scores(x, np.random.default_rng(2).standard_normal((200, 4)))
    assert apart["cka_debiased"] is not None and apart["cka_clipped"] == max(0.0, apart["cka_debiased"])


def test_blocks_that_are_there_are_not_trained_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    monkeypatch.setattr(encoders, "_train", lambda *_: pytest.fail("trained again"))
    run_encoders(SMALL, PROFILE, folder, levels=(0, 3), processes=0)
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_block_that_was_interrupted_is_done_again_and_gives_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = encoders.plan(SMALL, PROFILE, (0, 3))[:2]
    run_block(first, tmp_path, lambda share: None)
    with monkeypatch.context() as patch:
        patch.setattr(encoders, "_alignment", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_block(second, tmp_path, lambda share: None)
    assert not (tmp_path / "blocks" / second.name / "block.json").exists()
    run_block(second, tmp_path, lambda share: None)
    for block in (first, second):
        for name in ("models.parquet", "weights.safetensors", "block.json"):
            ours, theirs = (place / "blocks" / block.name / name for place in (tmp_path, folder))
            assert ours.read_bytes() == theirs.read_bytes(), name


@pytest.mark.slow
def test_processes_give_what_one_process_gives(folder: Path, tmp_path: Path) -> None:
    run_encoders(SMALL, PROFILE, tmp_path, levels=(0, 3), processes=2)
    for name in ("models", "alignment", "oracles"):
        assert pl.read_parquet(tmp_path / f"{name}.parquet").equals(pl.read_parquet(folder / f"{name}.parquet"))


def test_other_settings_train_blocks_of_their_own() -> None:
    names = {block.name for block in encoders.plan(SMALL, PROFILE, (0, 3))}
    other = Profile((1, 3), (1, 2), (2,), 60, 60, width=20)
    assert names.isdisjoint(block.name for block in encoders.plan(SMALL, other, (0, 3)))
    assert len(encoders.plan(Released(), PROFILES["standard"], range(9))) == 11


def test_a_level_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no level"):
        run_encoders(SMALL, PROFILE, tmp_path, levels=(4,))
    with pytest.raises(UsageError, match="featcache emergence synthetic"):
        load_ensemble(encoders.plan(SMALL, PROFILE, (0,))[0], tmp_path)


def test_rates_are_the_released_ones() -> None:
    assert [released_rates(0, level).learning_rate for level in (0, 3, 4, 7)] == [0.001, 0.01, 0.005, 0.001]
    assert [released_rates(1, level).weight_decay for level in (2, 3)] == [0.0, 1e-4]


def test_progress_rises_to_one_the_costliest_block_first(tmp_path: Path) -> None:
    shares: list[float] = []
    order: list[str] = []
    work = Work(_half_way, str, float)
    run_blocks(work, [1, 5, 2], tmp_path, 0, lambda share, name: (shares.append(share), order.append(name)))
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    assert [name for name in order if name] == ["5", "2", "1"]
    with pytest.raises(ValueError, match="block 7"):
        run_blocks(Work(_failing, str, float), [7], tmp_path, 1)


def _half_way(block: int, folder: Path, on_share: encoders.OnShare) -> None:
    on_share(0.5)


def _failing(block: int, folder: Path, on_share: encoders.OnShare) -> None:
    raise ValueError(f"block {block}")


def _scores(x: np.ndarray, y: np.ndarray) -> dict[str, float | None]:
    return released_scores(released_layer(x, k=K), released_layer(y, k=K))
