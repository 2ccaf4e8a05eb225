"""Huh et al.'s protocol on files as platonic-rep publishes them gives what its published algorithm gives."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands.app import app
from featcache.data.errors import DataInvalid
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.errors import UsageError
from featcache.extraction.extract import extract
from featcache.extraction.job import plan_job
from featcache.features import Features
from featcache.interchange.formats.contents import ImportOptions
from featcache.interchange.importing import import_features
from featcache.metrics.errors import BadChoice, BadShape
from featcache.metrics.preparation import layers_threshold, outlier_threshold
from featcache.report.figures.convergence import convergence_figure
from featcache.studies.alignment.common_rows import CachedSpace
from featcache.studies.alignment.grid import LayerGrids, align_layers, layers_of
from featcache.studies.alignment.protocol import QUANTILE, chosen_layers, last_layer, protocol_layers
from featcache.studies.alignment.settings import AlignSettings
from tests import hub
from tests.fakes import text_dataset

N, K = 96, 10
LLMS = {"bigscience_bloomz-560m": (5, 12, 1.31), "openlm-research_open_llama_3b": (7, 16, 0.94)} | {
    "huggyllama_llama-7b": (6, 20, 0.81)
}
VISION = {
    "vit_tiny_patch16_224.augreg_in21k_pool-cls": (4, 8),
    "vit_small_patch14_dinov2.lvd142m_pool-cls": (5, 14),
} | {
    "vit_base_patch16_224.mae_pool-cls": (3, 10),
    "vit_base_patch16_clip_224.laion2b-cls": (4, 9),
}


def stack(layers: int, width: int, seed: int) -> torch.Tensor:
    """Layers that see more and more of what all models see, with outliers in one dimension, as language models have."""
    rng = np.random.default_rng(seed)
    seen = np.random.default_rng(0).standard_normal((N, 6))
    feats = np.stack(
        [
            seen @ rng.standard_normal((6, width)) * (at + 1) / layers + rng.standard_normal((N, width))
            for at in range(layers)
        ],
        axis=1,
    )
    feats[:, :, 0] += 25 * rng.standard_normal((N, 1)) + 40
    return torch.from_numpy(feats).float()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, paths = tmp_path_factory.mktemp("published"), dict[str, Path]()
    for seed, (name, (layers, width, bits)) in enumerate(LLMS.items(), start=1):
        paths[name] = folder / f"{name}_pool-avg.pt"
        content = {"feats": stack(layers, width, seed), "num_params": 560_000_000, "bpb": torch.tensor(bits)}
        torch.save(content | {"mask": torch.ones(N, 9), "loss": torch.tensor(3.5)}, paths[name])
    for seed, (name, (layers, width)) in enumerate(VISION.items(), start=11):
        paths[name] = folder / f"{name}.pt"
        torch.save({"feats": stack(layers, width, seed), "num_params": 22_000_000}, paths[name])
    return paths


@pytest.fixture(scope="module")
def cache_root(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    for name, path in files.items():
        import_features(Cache(root), path, dataset="wit_1024", encoder=encoder(name), layer=None,
                        options=ImportOptions())  # fmt: skip
    return root


def encoder(name: str) -> str:
    return name.removesuffix("_pool-cls").removesuffix("-cls").lower()


def published(x: torch.Tensor, y: torch.Tensor, *, exact: bool) -> tuple[float, list[tuple[int, int]]]:
    """The best mutual k-NN of all pairs of layers, as the published code finds it, restated; and pairs that have it."""
    sides = []
    for feats in (x, y):
        sizes = feats.abs().flatten(start_dim=1)
        if exact:
            threshold = torch.sort(sizes.flatten()).values[int(0.95 * sizes.numel())]
        else:
            threshold = torch.quantile(sizes, 0.95, dim=1).mean()
        clamped = feats.clamp(-threshold, threshold).double()  # in half of it near ties fall either way
        sides.append([torch.nn.functional.normalize(clamped[:, at], dim=-1) for at in range(feats.shape[1])])
    scores = dict[tuple[int, int], float]()
    for i, a in enumerate(sides[0]):
        for j, b in enumerate(sides[1]):
            lists = [(rows @ rows.T).fill_diagonal_(-1e8).argsort(dim=1, descending=True)[:, :K] for rows in (a, b)]
            shared = [len(set(p.tolist()) & set(q.tolist())) for p, q in zip(*lists, strict=True)]
            scores[i, j] = sum(shared) / (K * len(shared))
    best = max(scores.values())
    return best, [pair for pair, score in scores.items() if score == best]


def layer_names(name: str) -> list[str]:
    numbers = range(LLMS[name][0]) if name in LLMS else range(1, VISION[name][0] + 1)
    if name not in LLMS:
        return [f"{number}.cls" for number in numbers]
    return [*(f"{number}.mean" for number in list(numbers)[:-1]), "last.mean"]


def measured(cache_root: Path, protocol: str) -> LayerGrids:
    names = [*map(encoder, LLMS), *map(encoder, VISION)]
    settings = AlignSettings(("mutual_knn",), K, permutations=39, protocol=protocol)  # type: ignore[arg-type]
    return align_layers(Cache(cache_root), "wit_1024", names, settings)


@pytest.mark.parametrize("protocol", ["huh2024", "huh2024-exact"])
def test_the_table_of_published_files_is_that_of_the_published_algorithm(
    files: dict[str, Path], cache_root: Path, protocol: str
) -> None:
    grids = measured(cache_root, protocol)
    best = {(score.encoder_x, score.encoder_y): score for score in grids.scores if score.best}
    cache, table = Cache(cache_root), 0
    for model in LLMS:
        for vision in VISION:
            x, y = (torch.load(files[name])["feats"] for name in (model, vision))
            expected, pairs = published(x, y, exact=protocol == "huh2024-exact")
            score = best[f"captions/{encoder(model)}", f"images/{encoder(vision)}"]
            assert score.value == pytest.approx(expected, abs=1e-6)
            names = [(layer_names(model)[i], layer_names(vision)[j]) for i, j in pairs]
            assert (score.layer_x, score.layer_y) in names
            assert score.convention.endswith("exact" if protocol == "huh2024-exact" else "per_sample_mean")
            table += 1
    assert table == 12
    plain = align_layers(cache, "wit_1024", [encoder(next(iter(LLMS))), encoder(next(iter(VISION)))],
                         AlignSettings(("mutual_knn",), K, null="none"))  # fmt: skip
    clamped = [s.value for s in grids.scores if (s.encoder_x, s.encoder_y) == next(iter(best))]
    assert [s.value for s in plain.scores] != clamped, "the clamp matters here"


def test_the_best_pair_has_a_null_of_the_search_and_a_calibrated_score(cache_root: Path) -> None:
    grids = measured(cache_root, "huh2024")
    for score in grids.scores:
        assert (score.calibrated is None) == (not score.best)
        if score.calibrated is not None:
            assert score.threshold is not None and score.p is not None
            expected = (score.value - score.threshold) / (1 - score.threshold)
            assert score.calibrated == pytest.approx(max(0.0, expected))
            assert (score.calibrated > 0) == (score.p <= 0.05)


def test_the_command_line_gives_the_same_and_draws_it(cache_root: Path, tmp_path: Path) -> None:
    names = [*map(encoder, LLMS), *map(encoder, VISION)]
    words = ["wit_1024", *names, "--protocol", "huh2024", "--permutations", "39", "--cache", str(cache_root)]
    run = CliRunner().invoke(app, ["grid", *words, "--json", "--out", str(tmp_path / "grid.parquet")])
    assert run.exit_code == 0, run.output
    rows = {
        (row["encoder_x"], row["layer_x"], row["encoder_y"], row["layer_y"]): row["value"]
        for row in json.loads(run.stdout)["layers"]
    }
    grids = measured(cache_root, "huh2024")
    assert rows == {(s.encoder_x, s.layer_x, s.encoder_y, s.layer_y): s.value for s in grids.scores}
    table = pl.read_parquet(tmp_path / "grid.parquet")
    assert set(table["protocol"]) == {"huh2024"} and table["calibrated"].is_not_null().sum() == 21
    shown = CliRunner().invoke(app, ["align", "wit_1024", names[0], names[-1], *words[-6:]])
    assert shown.exit_code == 0 and "protocol huh2024" in shown.output and "calibrated" in shown.output


def test_alignment_is_drawn_over_bits_per_byte(cache_root: Path) -> None:
    grids = measured(cache_root, "huh2024")
    assert grids.bits == {f"captions/{encoder(name)}": pytest.approx(bits) for name, (_, _, bits) in LLMS.items()}
    figure = convergence_figure(grids)
    assert figure is not None and len(figure.rows) == 12
    assert sorted({row["x"] for row in figure.rows}) == pytest.approx(sorted(bits for _, _, bits in LLMS.values()))
    best = {(s.encoder_x, s.encoder_y): s.value for s in grids.scores if s.best}
    assert sorted(row["value"] for row in figure.rows) == sorted(
        value for (x, y), value in best.items() if x.startswith("captions/") and y.startswith("images/")
    )
    assert figure.svg.startswith("<svg")
    assert {row["model"] for row in figure.rows} == {row["_name"] for row in figure.rows}
    assert all(name in figure.svg for name in ("huggyllama_llama-7b", "openlm-research_open_llama_3b"))
    assert "wit_1024" in figure.svg and "protocol huh2024; n = 96, k = 10" in figure.svg
    assert "chance of one pair .105" in figure.svg


def test_without_two_language_models_the_layers_are_drawn_and_that_is_said(cache_root: Path, tmp_path: Path) -> None:
    one, other = encoder(next(iter(LLMS))), encoder(next(iter(VISION)))
    words = ["grid", "wit_1024", one, other, "--protocol", "huh2024", "--permutations", "39", "--cache"]
    run = CliRunner().invoke(app, [*words, str(cache_root), "--figure", str(tmp_path / "a.svg")])
    assert run.exit_code == 0, run.output
    assert (
        f"it takes two language models of different bits and another encoder; of wit_1024 here: captions/{one} 1.31"
        in (run.output.replace("\n", " "))
    )
    drawn = (tmp_path / "a.svg").read_text()
    assert "mutual-kNN" in drawn and "colour scale of its own" in drawn and f"captions/{one} –" in drawn


def test_a_protocol_opens_with_a_sentence_and_says_what_it_has_not(cache_root: Path) -> None:
    words = ["align", "wit_1024", encoder(next(iter(LLMS))), encoder(next(iter(VISION))), "--protocol", "huh2024"]
    words += ["--cache", str(cache_root)]
    first = CliRunner().invoke(app, [*words, "--permutations", "39"]).stdout.splitlines()[0]
    assert first.startswith("mutual-kNN ") and "pairs of layers: above the best pairs of unrelated features" in first
    other = CliRunner().invoke(app, [*words, "--metric", "cka_debiased"]).stdout.replace("\n", " ")
    assert "No chance, p or calibrated score of debiased CKA: without neighbour graphs" in other
    refused = CliRunner().invoke(app, [*words, "--interval", "samples"])
    assert refused.exit_code != 0 and isinstance(refused.exception, UsageError | SystemExit)
    said = f"{refused.output} {refused.exception}"
    assert "--protocol huh2024 compares all layers" in said and "--interval samples" in said


def test_what_the_protocol_does_not_compare_is_left_out_and_said(cache_root: Path) -> None:
    values = np.random.default_rng(0).standard_normal((N, 8)).astype(np.float32)
    cache = Cache(cache_root)
    folder = cache_root.parent / "more.npy"
    np.save(folder, values)
    names = cache_root.parent / "ids.txt"
    names.write_text("".join(f"{row:04d}\n" for row in range(N)))
    import_features(cache, folder, dataset="wit_1024", encoder=encoder(next(iter(VISION))), layer="last.cls",
                    view="images", options=ImportOptions(modality="image", ids=names))  # fmt: skip
    grids = measured(cache_root, "huh2024")
    assert any("last.cls left out, which huh2024 does not compare" in note for note in grids.notes)
    assert "last.cls" not in {score.layer_y for score in grids.scores}


@pytest.mark.parametrize(
    ("repo", "name"), [("gpt2_repo", "gpt2"), ("distilbert_repo", "distilbert")]
)  # a norm follows the last block of the one, nothing that of the other
def test_of_a_language_model_the_hidden_states_of_transformers_are_compared(
    tmp_path: Path, repo: str, name: str
) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder, dataset, cache = getattr(hub, repo)(tmp_path / name), text_dataset(24), Cache(tmp_path / "cache")
    extract(cache, plan_job(cache, dataset, encoder_spec(name), EncodeOptions(weights=folder)))
    arrays = layers_of(cache, "tiny", name)
    names = [features.layer for features in arrays if features.layer.endswith(".mean")]
    kept = [names[at] for at in chosen_layers(names, "text", last_layer(cache, arrays[0]))]
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    view = dataset.views["captions"]
    with torch.no_grad():
        rows = [tokenizer(view.read(row), return_tensors="pt") for row in range(24)]
        states = [model(**row, output_hidden_states=True).hidden_states for row in rows]
    assert len(kept) == len(states[0])
    values = {features.layer: features.values for features in arrays}
    for at, layer in enumerate(kept):
        wanted = torch.stack([each[at][0].mean(0) for each in states]).numpy()
        np.testing.assert_allclose(values[layer], wanted, atol=5e-3)


def test_layers_that_the_paper_does_not_compare_are_said_where_there_are_no_others() -> None:
    assert chosen_layers(["0.cls", "1.cls", "last.cls"], "image", "block") == [1, 2]  # no norm follows the last block
    for layer, modality, paper in (("last.cls", "image", "class tokens"), ("3.mean", "text", "every hidden state"),
                                   ("last.mean", "audio", "images with texts")):  # fmt: skip
        features = Features(np.eye(8, 4, dtype="float32"), np.arange(8).astype(str), np.arange(8).astype(str),
                            np.full(8, ""), encoder="one", layer=layer, modality=modality)  # fmt: skip
        space = CachedSpace(features.name, features, 8, lambda: np.eye(8, 4), None, None, None, None)
        kept, [note] = protocol_layers([space], "huh2024", "output")
        assert len(kept) == 1 and note.startswith(f"one: compared by {layer}, where the paper") and paper in note


@pytest.mark.parametrize("how", ["exact", "per_sample_mean"])
def test_one_threshold_of_layers_is_that_of_their_stack(how: str) -> None:
    feats = stack(4, 9, 3).numpy()
    layers = [feats[:, at] for at in range(4)]
    assert layers_threshold(layers, q=QUANTILE, how=how) == outlier_threshold(feats, q=QUANTILE, how=how)  # type: ignore[arg-type]
    with pytest.raises(BadShape, match="one shape"):
        layers_threshold([feats[:, 0], feats[:50, 1]])
    with pytest.raises(BadChoice, match="empty list"):
        layers_threshold([])


def test_layers_of_several_widths_have_a_threshold_each(cache_root: Path) -> None:
    from featcache.studies.alignment.common_rows import common_rows
    from featcache.studies.alignment.grid import layers_of

    cache = Cache(cache_root)
    arrays = [layers_of(cache, "wit_1024", encoder(name))[0] for name in list(LLMS)[:2]]
    spaces, _ = protocol_layers(common_rows(arrays).spaces, "huh2024")
    for space, features in zip(spaces, arrays, strict=True):
        threshold = outlier_threshold(features.values, q=QUANTILE, how="per_sample_mean")
        np.testing.assert_allclose(space.values, np.clip(features.values, -threshold, threshold), rtol=1e-6)


def test_a_file_without_a_pooling_in_its_name_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "vit_tiny-clsx.pt"
    path.write_bytes(files["vit_base_patch16_224.mae_pool-cls"].read_bytes())
    with pytest.raises((UsageError, DataInvalid), match="pool-cls.pt"):
        import_features(Cache(tmp_path / "cache"), path, dataset="wit_1024", encoder="v", layer=None,
                        options=ImportOptions())  # fmt: skip
