"""Does the top of the page answer, in the words of the table of contrasts and nothing else?"""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from featcache.metrics.measure.row import Row
from featcache.report.answer import answer
from featcache.report.certainty import certainty, choice, warnings, whole_answer
from featcache.report.figures.concept import concept
from featcache.report.figures.paths import alignment_against_retrieval, retrieval_path
from featcache.report.figures.verdicts import hero, verdict_matrix
from featcache.report.page.chapters import chapters
from featcache.report.page.write import write_report
from featcache.report.runs import RunResults, load_runs
from featcache.report.seeds import headline_run, pool_seeds
from featcache.report.tables import contrast_table
from featcache.trainer.run_files import write_manifest
from tests.test_report_runs import FORMAT_1, SIDES, change_metrics, write_run

BEST = "joint − best raw part"


def loaded(*folders: Path) -> list[RunResults]:
    return pool_seeds(load_runs(folders))


@pytest.mark.parametrize(
    "verdict, opening",
    [
        (
            "above",
            "Yes: the joint space is above its best raw part, images (resnet18), in agreement with dinov2-small: ",
        ),
        (
            "below",
            "No: the joint space is below its best raw part, images (resnet18), in agreement with dinov2-small: ",
        ),
        (
            "cannot tell",
            "Cannot tell the joint space from its best raw part, images (resnet18), in agreement with dinov2-small: ",
        ),
        (
            "cannot tell after correction",
            "Cannot tell after correction the joint space from its best raw part, images (resnet18),",
        ),
    ],
)
def test_the_answer_opens_with_the_verdict_against_the_best_raw_part(
    tmp_path: Path, verdict: str, opening: str
) -> None:
    (run,) = loaded(write_run(tmp_path / "run", contrasts={BEST: {"verdict": verdict}}))
    text = whole_answer(run)
    assert text.startswith(opening)
    (best,) = [row for row in contrast_table([run]) if (row.contrast, row.metric) == (BEST, "mutual_knn")]
    (average,) = [
        row
        for row in contrast_table([run])
        if (row.contrast, row.metric) == ("joint − average of raw parts", "mutual_knn")
    ]
    assert f": {best.difference} {best.interval}, p " in text
    assert text.endswith(f" Against the average of its raw parts: {average.text()}.")


def test_seeds_that_agree_are_answered_as_one_and_seeds_that_do_not_are_counted(tmp_path: Path) -> None:
    same = [write_run(tmp_path / f"a{seed}", seed=seed) for seed in range(3)]
    (run,) = loaded(*same)
    assert answer(run).startswith("No: the joint space is below its best raw part") and "in 3 of 3 seeds" in answer(run)
    assert "over seeds" in certainty(run)
    other = [
        write_run(tmp_path / f"b{seed}", seed=seed, contrasts={BEST: {"verdict": "above" if seed else "below"}})
        for seed in range(3)
    ]
    (run,) = loaded(*other)
    assert answer(run).startswith("The seeds differ: ")
    assert "above in 2 of 3, below in 1 of 3 seeds" in answer(run)


def test_a_control_says_so_first_and_a_run_without_reference_has_no_verdict(tmp_path: Path) -> None:
    (control,) = loaded(write_run(tmp_path / "control", shuffle_pairs=True))
    assert answer(control).startswith("A control: its training pairs were shuffled across groups")
    (bare,) = loaded(write_run(tmp_path / "bare", encoders=("resnet18", "gpt2", None)))
    assert answer(bare).startswith("Agreement of the sides, before and after training: images (resnet18) and captions")
    assert answer(bare).endswith("no verdict)")
    assert hero([bare]) is None and verdict_matrix([bare]) is None
    assert "verdicts need a reference" in certainty(bare)


def test_a_run_of_0_1_is_answered_by_its_score_alone() -> None:
    (old,) = loaded(FORMAT_1)
    assert answer(old).startswith("No verdict (written by featcache 0.1")
    assert verdict_matrix([old]) is None
    assert hero([old]) is not None


def test_how_sure_says_whether_the_other_metric_agrees(tmp_path: Path) -> None:
    (run,) = loaded(write_run(tmp_path / "run", contrasts={BEST: {"n": 1000}}))
    first, other = (
        next(row for row in contrast_table([run]) if (row.contrast, row.metric) == (BEST, metric))
        for metric in ("mutual_knn", "cka_debiased")
    )
    said = certainty(run)
    assert (
        "other test groups (1,000 of them)" in said
        and "after Holm's correction over all 8 contrasts of the metric" in said
    )
    if first.verdict == other.verdict:
        assert "The same verdict by debiased CKA." in said
    else:
        assert f"By debiased CKA: {other.text()}." in said


def test_the_headline_run_is_named_with_its_reason_and_not_by_its_test_score(tmp_path: Path) -> None:
    runs = loaded(
        write_run(tmp_path / "a", recall=0.5),
        write_run(tmp_path / "b", adapter="mlp", recall=0.3, scores={("trained", "joint"): 0.9}),
    )
    first, _ = headline_run(runs)
    assert first.label == "linear" and "best of 2 on validation" in choice(runs)
    assert choice(runs[:1]) == ""
    assert not any("mlp" in line for line in warnings(runs))


def test_the_hero_has_every_contrast_of_the_joint_beside_the_space_it_is_with(tmp_path: Path) -> None:
    runs = loaded(write_run(tmp_path / "run"))
    figure = hero(runs)
    assert figure is not None
    assert figure.rows[0]["label"] == "joint, trained"
    told = {row["label"]: row["contrast"] for row in figure.rows if row["contrast"]}
    assert told == {
        "images, raw": "joint − best raw part",
        "average of the parts, raw": "joint − average of raw parts",
        "images, adapted": "joint − best adapted part",
        "average of the parts, adapted": "joint − average of adapted parts",
        "joint, untrained": "joint: trained − untrained",
        "raw kernels mixed": "joint − best mixture of raw kernels",
    }
    by_label = {row["label"]: row["value"] for row in figure.rows}
    assert by_label["images, raw"] == 0.473 and by_label["joint, trained"] == 0.307
    for row in figure.rows:
        assert f"{row['label']} {row['value']:.3f}" in figure.alt


def test_the_hero_brackets_the_control_at_the_score_that_the_difference_leaves(tmp_path: Path) -> None:
    runs = loaded(write_run(tmp_path / "run", control=True))
    figure = hero(runs)
    assert figure is not None
    (row,) = [row for row in figure.rows if row["label"] == "joint, pairs shuffled"]
    (contrast,) = [one for one in runs[0].contrasts if (one.parts, one.metric) == ("control joint", "mutual_knn")]
    assert contrast.value is not None and row["value"] == pytest.approx(0.307 - contrast.value)
    assert row["contrast"] == contrast.contrast


def test_the_matrix_has_a_cell_for_every_contrast_and_says_its_verdict_in_words(tmp_path: Path) -> None:
    runs = loaded(write_run(tmp_path / "a"), write_run(tmp_path / "b", adapter="mlp"))
    figure = verdict_matrix(runs)
    assert figure is not None
    rows = contrast_table(runs)
    assert [(row["run"], row["label"], row["metric"], row["verdict"]) for row in figure.rows] == [
        (row.run, row.contrast, row.metric, row.verdict) for row in rows
    ]
    signs = {row["verdict"]: row["sign"] for row in figure.rows}
    assert signs.items() >= {("above", "▲"), ("below", "▼")}


def test_a_matrix_of_many_runs_opens_with_the_headline_run_and_stays_narrow(tmp_path: Path) -> None:
    runs = loaded(*[write_run(tmp_path / f"w{width}", width=width) for width in (32, 64, 128, 256, 512, 1024, 2048)])
    figure = verdict_matrix(runs)
    assert figure is not None
    first, _ = headline_run(runs)
    shown = list(dict.fromkeys(row["run"] for row in figure.rows))
    assert shown[0] == first.label and len(shown) == 6
    assert len({row["column"] for row in figure.rows}) <= 12


def test_the_diagram_has_the_names_widths_and_counts_of_the_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", sides=(*SIDES, "names-de"), encoders=("vit", "gpt2", "bert", "dinov2"))
    figure = concept(loaded(folder))
    by_node = {row["node"]: row for row in figure.rows}
    assert by_node["images"]["name"] == "vit" and by_node["reference"]["name"] == "dinov2"
    assert by_node["data"]["detail"] == "5,000 train, 500 val., 1,000 test"
    assert by_node["joint"]["detail"] == "d = 256"
    assert sum(row["kind"] == "adapter" for row in figure.rows) == 3
    assert figure.svg.startswith("<svg") and figure.png.startswith(b"\x89PNG")


def test_the_path_pairs_retrieval_and_alignment_of_the_same_epoch(tmp_path: Path) -> None:
    runs = loaded(write_run(tmp_path / "run", epochs=4))
    (run,) = runs
    path = retrieval_path(run)
    assert [point.epoch for point in path] == [0, 1, 2, 3, 4]
    for point in path[1:]:
        found = [
            row.value
            for row in run.find(metric="R@10", split="validation", stage="trained")
            if row.epoch == point.epoch and row.value is not None
        ]
        assert point.retrieval == pytest.approx(sum(found) / len(found))
        (joint,) = run.find(
            metric="mutual_knn",
            split="validation",
            stage="trained",
            space="joint",
            against="reference",
            epoch=point.epoch,
        )
        assert point.alignment == joint.value
    assert alignment_against_retrieval(runs) is not None


def test_no_part_of_a_chapter_has_more_than_four_sentences_and_its_figure_comes_first(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", sides=(*SIDES, "names-de"), encoders=("vit", "gpt2", "bert", "dinov2"))
    for runs in (loaded(folder), loaded(write_run(tmp_path / "two"))):
        every = [*chapters(runs)]
        assert [chapter.title for chapter in every] == [
            *("Introduction", "Hypothesis", "Method", "Results", "Implications", "What next", "Takeaways")
        ]
        for part in (part for chapter in every for part in chapter.parts):
            assert len(part.sentences) <= 4


# -- pages of every kind ----------------------------------------------------------------------------------------------


def test_the_counts_of_the_matrix_are_those_of_its_signs_also_over_seeds(tmp_path: Path) -> None:
    figure = verdict_matrix(loaded(*[write_run(tmp_path / f"s{seed}", seed=seed) for seed in range(3)]))
    assert figure is not None
    signs = [row["sign"] for row in figure.rows]
    assert signs.count("▼") and f"{signs.count('▲')} above, {signs.count('▼')} below" in figure.caption


def test_runs_whose_names_are_cut_alike_stay_two_columns(tmp_path: Path) -> None:
    folders = [
        write_run(
            tmp_path / f"t{place}", adapter={"images": "linear", "captions": "mlp"}, temperature=0.07 + place / 10
        )
        for place in range(2)
    ]
    figure = verdict_matrix(loaded(*folders))
    assert figure is not None
    assert len({(row["label"], row["column"]) for row in figure.rows}) == len(figure.rows)


def test_a_training_that_was_measured_again_beside_a_control_is_one_run(tmp_path: Path) -> None:
    plain, again = write_run(tmp_path / "plain"), write_run(tmp_path / "again", control=True)
    config = json.loads((again / "config.json").read_text(encoding="utf-8")) | {"control": "c0ffee"}
    (again / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (again / "manifest.json").unlink()
    write_manifest(again)
    (one,) = loaded(plain, again)
    assert one.path == again
    other = write_run(tmp_path / "other", seed=1)
    (pooled,) = loaded(plain, again, other)
    assert [run.path for run in pooled.each] == [again, other]


@pytest.mark.parametrize("kind", ["no retrieval", "no raw rows", "no retrieval beside one with it"])
def test_runs_that_lack_rows_still_make_a_page(tmp_path: Path, kind: str) -> None:
    run = write_run(tmp_path / "run", epochs=4)
    lacking = pl.col("stage") != "raw" if kind == "no raw rows" else pl.col("direction") == ""
    change_metrics(run, lacking)
    others = [write_run(tmp_path / "other", adapter="mlp", epochs=4)] if "beside" in kind else []
    page = write_report([run, *others], tmp_path / "out", formats=()).read_text(encoding="utf-8")
    assert 'id="verdict"' in page and "Takeaways" in page


def test_of_pooled_seeds_the_page_says_whose_maps_it_shows(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"s{seed}", seed=seed) for seed in (3, 4)]
    page = write_report(folders, tmp_path / "out", formats=()).read_text(encoding="utf-8")
    assert "neighbours and queries are of seed 3 alone" in page


def test_the_headline_run_of_many_is_one_and_the_control_is_no_candidate(tmp_path: Path) -> None:
    runs = loaded(
        *[write_run(tmp_path / f"w{width}", width=width, recall=width / 1000) for width in (64, 128, 256, 512)],
        write_run(tmp_path / "control", shuffle_pairs=True, recall=0.9),
    )
    assert "width 512, the best of 4 on validation" in choice(runs)


def test_gaps_of_several_pairs_of_sides_are_given_by_their_ends(tmp_path: Path) -> None:
    (run,) = loaded(write_run(tmp_path / "run"))
    of = {"split": "test", "metric": "centroid_gap"}
    gaps = [Row("a", "b", value=value, stage=stage, **of) for stage in ("untrained", "trained") for value in (0.1, 0.3)]
    texts = " ".join(text for chapter in chapters([replace(run, scores=(*run.scores, *gaps))]) for part in chapter.parts
                     for text in part.sentences)  # fmt: skip
    assert "The centroids of the sides lie 0.100 to 0.300 apart, 0.100 to 0.300 before training" in texts


def test_the_extremes_that_the_gallery_leaves_out_are_those_that_runs_keep() -> None:
    from featcache.report.page.widgets import EXTREMES
    from featcache.studies.adapters.pictures import answers

    assert answers.EXTREMES == EXTREMES
