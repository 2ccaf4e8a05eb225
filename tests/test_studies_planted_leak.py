"""Training images copied into test are warned of, listed, and scored without; --on-leak does what it says."""

import json

import numpy as np
import polars as pl
import pytest

from featcache.cache import Cache
from featcache.metrics.measure.row import CLEAN
from featcache.report import findings
from featcache.report.leaks import clean_table
from featcache.report.page.leaks import clean_html
from featcache.report.runs import load_runs
from featcache.report.seeds import pool_seeds
from featcache.report.terminal.leaks import show_leaks
from featcache.report.terminal.training import show_run, show_training
from featcache.studies.adapters.train import Workbench, train
from featcache.trainer.config import FitConfig
from featcache.trainer.defaults import Selection, run_folder
from featcache.trainer.errors import LeaksFound, NotPaired, RunExists
from featcache.trainer.run import load_run
from featcache.trainer.run_files import changed_files
from featcache.trainer.sides import hash_ids
from tests.planted_leak import planted_cache, planted_folder

CONFIG = FitConfig(epochs=4, batch=64, width=16, k=5, lr=1e-2, permutations=39, halves=20, untrained=2)
SELECTION = Selection("planted", ("tiny", "words"), "large")
IMAGES = "identical image", "near-identical image"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted")
    planted_cache(planted_folder(root / "pictures", validation_copies=5), root / "cache")
    return root


@pytest.fixture(scope="module")
def bench(place):
    return Workbench.load(Cache(place / "cache"), SELECTION)


@pytest.fixture(scope="module")
def warned(bench, tmp_path_factory):
    return train(bench, CONFIG, tmp_path_factory.mktemp("runs") / "warned")


@pytest.fixture(scope="module")
def clean(place, tmp_path_factory):
    """The same pictures without a copy."""
    root = tmp_path_factory.mktemp("clean")
    cache, _ = planted_cache(planted_folder(root / "pictures", copies=0), root / "cache")
    return train(Workbench.load(cache, SELECTION), CONFIG, root / "run")


def of(table, **wanted):
    return table.filter(*(pl.col(name) == value for name, value in wanted.items()))


def is_copy(row_id):
    return row_id.startswith("copy-")


# -- warn -------------------------------------------------------------------------------------------------------------


def test_a_hundred_planted_copies_are_counted_and_listed_in_the_run_with_what_they_are_of(warned):
    record = warned.config["split"]["leaks"]
    assert record["groups"] == {"validation": 5, "test": 100} and record["of"] == {"validation": 45, "test": 160}
    assert record["rows"]["identical image"] == {"validation": 2, "test": 40}
    assert record["rows"]["near-identical image"] == {"validation": 3, "test": 60}
    assert record["encoders"] == {"images": ["tiny/last.mean", "large/last.mean"]} and record["texts"] == {}
    table = warned.table("leaks")
    pictures = table.filter(pl.col("kind").is_in(IMAGES))
    assert len(pictures) == 105 and all(map(is_copy, pictures["id"]))
    assert pictures["match_id"].to_list() == [f"train{row[-7:-4]}.png" for row in pictures["id"]]
    assert (pictures["similarity"] > 0.9).all() and set(pictures["match_split"]) == {"train"}
    assert set(of(table, kind="identical text")["view"]) == {"captions"}
    assert (
        changed_files(warned.path) == []
        and "leaks.parquet" in json.loads((warned.path / "manifest.json").read_text())["blake3"]
    )


def test_the_clean_part_has_every_score_and_verdict_that_the_test_split_has(warned):
    for name in ("metrics", "contrasts"):
        table = warned.table(name)
        keys = [
            column
            for column in ("stage", "space", "against", "metric", "direction", "contrast", "k")
            if column in table
        ]
        full, part = (of(table, split=split).select(keys).rows() for split in ("test", CLEAN))
        assert full == part and full
    sizes = of(warned.table("metrics"), metric="mutual_knn").group_by("split").agg(pl.col("n").unique())
    assert dict(sizes.rows()) == {"train": [220], "validation": [45], "test": [160], CLEAN: [60]}


def test_clean_scores_are_those_of_a_test_split_that_never_had_the_copies(bench, warned, tmp_path):
    """The very same rows are measured where only test groups are left out, since the training is the same."""
    evaluation = bench.evaluation(CONFIG)
    assert evaluation.clean.paired.groups.tolist() == [
        group for group in evaluation.test.paired.groups.tolist() if not is_copy(group)
    ]
    dropped = train(bench, CONFIG, tmp_path / "run", on_leak="drop")
    raw = {"stage": "raw", "metric": "mutual_knn", "against": "reference"}
    part = of(warned.table("metrics"), split=CLEAN, **raw)
    whole = of(dropped.table("metrics"), split="test", **raw)
    assert part["value"].to_list() == whole["value"].to_list() and part["ci_low"].to_list() == whole["ci_low"].to_list()


def test_the_warning_says_how_many_which_and_what_to_do_on_stderr(bench, capsys):
    show_leaks(bench.leaks(CONFIG))
    out, err = capsys.readouterr()
    text = " ".join(err.split())
    assert out == "" and text.startswith("WARNING: 100 of 160 test groups and 5 of 45 validation groups stand")
    assert "test, 40 identical images: copy-test-000.png = train000.png of train" in text
    assert "validation, 3 near-identical images: copy-validation-217.png ≈ train217.png of train (cosine" in text
    assert "and 35 more" in text and "--on-leak drop leaves them out" in text and "identical text" not in text


def test_terminal_sentences_and_page_give_the_clean_score_beside_the_full_one(warned, capsys):
    said = findings([warned.path])
    (run,) = load_runs([warned.path])
    full, part = (run.on_test("trained", "joint", "mutual_knn", split=split) for split in ("test", CLEAN))
    assert f"On the 60 test groups without those found to leak it reaches {part.value:.3f}" in said[0], (
        "the lead says it"
    )
    caveats = " ".join(line for line in said if line.startswith("Caveat"))
    assert "100 of 160 test groups and 5 of 45 validation groups stand in an earlier split too, or nearly" in caveats
    assert "42 identical images, 63 near-identical images" in caveats and "leaks.parquet" in caveats
    assert f"joint, trained mutual-kNN {part.value:.3f}" in caveats and f"instead of {full.value:.3f}" in caveats
    assert "epoch was selected on a validation split that leaks" in caveats and "verdicts" in caveats
    show_run(warned)
    shown = capsys.readouterr().out
    assert "The test split beside its clean part" in shown and "without the 100 found to leak" in shown
    rows = clean_table(run)
    assert {row.metric for row in rows} == {"mutual_knn", "cka_debiased", "R@1", "R@10"}
    recall = next(row for row in rows if row.metric == "R@10")
    assert recall.clean.n == 60 and recall.test.n == 160
    html = clean_html(run, "")
    assert "<table>" in html and f"{part.value:.3f}" in html and f"{full.value:.3f}" in html


def test_runs_of_several_seeds_have_a_clean_part_of_means(bench, warned, tmp_path):
    other = train(bench, CONFIG.model_copy(update={"seed": 1}), tmp_path / "other")
    (pooled,) = pool_seeds(load_runs([warned.path, other.path]))
    row = pooled.on_test("trained", "joint", "mutual_knn", split=CLEAN)
    values = [run.on_test("trained", "joint", "mutual_knn", split=CLEAN).value for run in pooled.seeds]
    assert row.value == pytest.approx(np.mean(values)) and clean_table(pooled)


def test_where_nothing_leaks_there_is_no_word_no_row_and_no_clean_part(clean, capsys):
    assert clean.config["split"]["leaks"]["groups"] == {} and not len(clean.table("leaks"))
    assert set(clean.table("metrics")["split"]) == {"train", "validation", "test"}
    assert set(clean.table("contrasts")["split"]) == {"test"}
    assert not [line for line in findings([clean.path]) if "leak" in line]
    (run,) = load_runs([clean.path])
    assert clean_table(run) == [] and clean_html(run, "") == ""


def test_a_clean_part_too_small_for_k_is_said_and_not_scored(place, tmp_path):
    cache, _ = planted_cache(
        planted_folder(tmp_path / "pictures", copies=40, parts={"train": 120, "validation": 20, "test": 4}),
        tmp_path / "cache",
    )
    bench = Workbench.load(cache, SELECTION)
    run = train(bench, CONFIG, tmp_path / "run")
    assert CLEAN not in set(run.table("metrics")["split"])
    assert any(
        "The 4 groups without those found are too few to be scored at k = 5" in line for line in findings([run.path])
    )
    with pytest.raises(
        NotPaired, match=r"(?s)without the 40 groups.*has 4 groups; k = 5 needs at least 6.*--on-leak warn"
    ):
        train(bench, CONFIG, tmp_path / "dropped", on_leak="drop")


# -- stop and drop ----------------------------------------------------------------------------------------------------


def test_stop_is_an_error_that_names_rows_and_commands_and_writes_nothing(bench, warned, tmp_path):
    with pytest.raises(LeaksFound, match=r"(?s)5 validation and 100 test groups stand.*copy-.*--on-leak drop"):
        train(bench, CONFIG, tmp_path / "run", on_leak="stop")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LeaksFound):
        train(bench, CONFIG, warned.path, on_leak="stop")


def test_drop_leaves_validation_and_test_groups_out_records_it_and_is_another_run(bench, warned, tmp_path, capsys):
    run = train(bench, CONFIG, tmp_path / "run", on_leak="drop")
    split = load_run(run.path).config["split"]
    assert split["n"] == {"train": 220, "validation": 40, "test": 60}
    assert split["left_out"] == {"validation": 5, "test": 100} and split["leaks"]["groups"]["test"] == 100
    assert split["hashes"]["test"] == hash_ids(np.array([f"test{number:03}.png" for number in range(60)]))
    assert CLEAN not in set(run.table("metrics")["split"]) and len(run.table("leaks"))
    assert not [line for line in findings([run.path]) if "leak" in line]
    show_training(run)
    assert "left out as leaks: 5 validation and 100 test groups" in " ".join(capsys.readouterr().out.split())
    show_leaks(bench.leaks(CONFIG), dropped=True)
    assert "They are left out of the run" in capsys.readouterr().err
    with pytest.raises(RunExists, match="differs in leaks"):
        train(bench, CONFIG, warned.path, on_leak="drop")
    with pytest.raises(RunExists, match="differs in leaks"):
        train(bench, CONFIG, run.path)
    plain, dropping = (run_folder(SELECTION, FitConfig(), drop_leaks=drop) for drop in (False, True))
    assert plain != dropping and "leaks-dropped" in dropping


def test_warning_is_no_part_of_what_a_run_is(bench, warned, clean):
    assert train(bench, CONFIG, warned.path, on_leak="warn").already_there
    assert warned.config["leaks"] == clean.config["leaks"] == "kept"


def test_a_run_written_before_leaks_were_looked_for_opens_and_says_so(warned, tmp_path):
    import shutil

    from featcache.trainer.run_files import write_manifest

    old = tmp_path / "old"
    shutil.copytree(warned.path, old)
    (old / "leaks.parquet").unlink()
    config = json.loads((old / "config.json").read_text())
    del config["leaks"], config["config"]["hits"], config["split"]["leaks"]
    (old / "config.json").write_text(json.dumps(config))
    (old / "manifest.json").unlink()
    write_manifest(old)
    run = load_run(old)
    assert run.config["leaks"] == "kept" and run.config["config"]["hits"] == "group"
    assert any("leaks between the splits were not looked for" in line for line in findings([old]))
