"""Is the page whole, true to the tables, and safe to open anywhere?"""

import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from featcache.errors import OutputFailed, UsageError
from featcache.report import contrast_table, findings, load_runs, retrieval_table, summary_table, write_report
from featcache.report.figures.figure import inline
from featcache.report.figures.verdicts import hero
from featcache.report.page.chapters import chapters
from featcache.storage import outputs
from tests.test_report_runs import FORMAT_1, METRICS, SIDES, change_metrics, write_run

FIGURES = (
    "adapter_bars",
    "alignment_against_retrieval",
    "alignment_over_epochs",
    "answer",
    "chosen_kernels",
    "concept",
    "final_alignment",
    "final_retrieval",
    "kernels",
    "loss_over_epochs",
    "maps",
    "mixing_curve",
    "retrieval_over_epochs",
    "space_plane",
    "stage_maps",
    "verdicts",
)
OF_ONE = tuple(name for name in FIGURES if name != "adapter_bars")  # a page of one run compares none


class Page(HTMLParser):
    """Collects what a browser would load, the cells of its section of tables, the ids and text alternatives."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.cells: list[str] = []
        self.ids: list[str] = []
        self.alternatives: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append("json" if tag == "script" and attrs[:1] == [("type", "application/json")] else tag)
        self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if tag in ("svg", "img") and name in ("aria-label", "alt"):
                self.alternatives.append(value or "")

    def handle_data(self, data: str) -> None:
        if "tables" in self.ids and self.open and self.open[-1] in ("td", "small"):
            self.cells.append(data)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass


def parse(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_run(folder / "linear"),
        write_run(folder / "mlp", adapter="mlp", scores={("trained", "joint"): 0.345}, recall=0.41),
    ]


@pytest.fixture(scope="module")
def written(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(runs, tmp_path_factory.mktemp("report"))


def test_the_page_loads_nothing_from_elsewhere(written: Path) -> None:
    loads = parse(written).loads
    assert loads
    assert all(load.startswith(("#", "figures/", "data:image/png;base64,")) for load in loads)
    text = written.read_text(encoding="utf-8")
    assert not re.search(r"url\(\s*['\"]?(?!#)", text)
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_every_link_of_the_page_leads_to_a_file(written: Path) -> None:
    links = [load for load in parse(written).loads if load.startswith("figures/")]
    assert len(links) == 3 * len(FIGURES)
    assert all((written.parent / link).stat().st_size > 0 for link in links)


def test_every_figure_is_a_png_an_svg_and_a_table(written: Path) -> None:
    folder = written.parent / "figures"
    assert sorted(path.stem for path in folder.glob("*.png")) == list(FIGURES)
    for name in FIGURES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert (folder / f"{name}.svg").read_text(encoding="utf-8").startswith("<svg")
        table = pl.read_csv(folder / f"{name}.csv", infer_schema_length=None)
        assert table.height > 0
        assert not [column for column in table.columns if column.startswith("_")]


def test_every_figure_has_a_text_alternative(written: Path) -> None:
    assert len([text for text in parse(written).alternatives if len(text) > 30]) == len(FIGURES)


def test_no_two_elements_share_an_id(written: Path) -> None:
    ids = parse(written).ids
    assert len(ids) == len(set(ids))


def test_the_alignment_table_shows_the_numbers_of_the_parquet(written: Path, runs: list[Path]) -> None:
    cells = parse(written).cells
    for folder in runs:
        table = pl.read_parquet(folder / "metrics.parquet")
        chosen = table.filter((pl.col("split") == "test") & pl.col("metric").is_in(METRICS))
        assert chosen.height == 24 - 2  # untrained sides are not compared with each other on test
        for row in chosen.to_dicts():
            assert f"{row['value']:.3f}" in cells
            assert f"null {row['null_low']:.3f}–{row['null_high']:.3f}" in cells
            assert f"chance {row['chance']:.3f}" in cells


def test_the_tables_stand_in_the_order_of_their_rows(written: Path, runs: list[Path]) -> None:
    values = [cell for cell in parse(written).cells if re.fullmatch(r"\d\.\d{3}|–", cell)]
    rows = summary_table(runs)
    by_run = [[row for row in rows if row.run == label] for label in ("linear", "mlp")]
    wanted = []
    for pair in zip(*by_run, strict=True):
        for row in pair:
            wanted += [f"{row.scores[metric].value:.3f}" for metric in METRICS]
    wanted += [f"{row.score.value:.3f}" for row in retrieval_table(runs) if row.metric != "median_rank"]
    assert values == wanted


def test_the_page_says_what_the_findings_say(written: Path, runs: list[Path]) -> None:
    import html

    text = html.unescape(written.read_text(encoding="utf-8"))
    for line in findings(runs):
        core = re.sub(r"^(linear|mlp|Caveat): ", "", line)
        assert core[1:] in text


def test_the_data_of_a_figure_are_the_rows_of_the_table(written: Path, runs: list[Path]) -> None:
    table = pl.read_csv(written.parent / "figures" / "final_alignment.csv")
    shown = table.filter((pl.col("run") == "mlp") & (pl.col("metric") == "mutual_knn"))
    values = {(row["group"], row["space"]): row["value"] for row in shown.to_dicts()}
    rows = [
        row for row in summary_table(runs) if row.run == "mlp" and row.group != "between" and row.space != "maximum"
    ]
    assert values == {(row.group, row.space): row.scores["mutual_knn"].value for row in rows}


def test_a_page_of_three_full_runs_stays_below_three_megabytes(tmp_path: Path) -> None:
    names = ("linear", "mlp", "bottleneck")
    folders = [write_run(tmp_path / name, adapter=name, points=1000, epochs=40, label_count=9) for name in names]
    page = write_report(folders, tmp_path / "out", formats=())
    assert page.stat().st_size < 3_000_000
    assert not list((tmp_path / "out" / "figures").glob("*.png"))


def test_names_from_the_outside_are_escaped(tmp_path: Path) -> None:
    names = ("<script>alert(1)</script>", 'gpt"2', "dino&v2")
    folder = write_run(tmp_path / "a<b>&", encoders=names)
    twin = write_run(
        tmp_path / "<img src=x onerror=alert(2)>", encoders=("<script>alert(1)</script>", 'gpt"2', "dino&v2")
    )
    path = write_report([folder, twin], tmp_path / "out", formats=("svg",))
    page = parse(path)
    assert page.tags.count("script") == 1
    assert "x" not in page.loads
    assert "<script>alert" not in path.read_text(encoding="utf-8")


def test_runs_of_other_features_are_drawn_side_by_side_with_a_warning(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", encoders=("vit", "bert", "siglip"), n=300)]
    path = write_report(runs, tmp_path / "out", formats=())
    text = path.read_text(encoding="utf-8")
    assert "do not share test groups, features and k" in text
    assert "2 runs compared" in text
    spaces = pl.read_csv(tmp_path / "out" / "figures" / "kernels.csv").select("run", "space").unique()
    assert spaces.height == 8


def test_a_run_without_epochs_retrieval_and_mixing_still_makes_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    of_test = (pl.col("split") == "test") & pl.col("metric").is_in(METRICS)
    change_metrics(folder, of_test & ~pl.col("stage").is_in(["mixed", "untrained"]))
    path = write_report([folder], tmp_path / "out")
    drawn = sorted(file.stem for file in (tmp_path / "out" / "figures").glob("*.csv"))
    assert drawn == [
        *("answer", "chosen_kernels", "concept", "final_alignment", "kernels", "maps"),
        *("space_plane", "stage_maps", "verdicts"),
    ]
    assert "The runs measured no retrieval." in path.read_text(encoding="utf-8")


def test_every_drawing_is_valid_vega_lite(runs: list[Path]) -> None:
    import altair as alt

    loaded = load_runs(runs)
    every = [figure for chapter in chapters(loaded) for part in chapter.parts for figure in part.figures]
    drawn = [figure for figure in (hero(loaded), *every) if figure is not None]
    assert sorted(figure.name for figure in drawn) == list(OF_ONE)
    for figure in drawn:
        if not figure.drawing:
            alt.Chart.from_dict({**figure.spec, "datasets": {}}, validate=True)


def test_a_report_of_a_missing_run_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no run at"):
        write_report([tmp_path / "nowhere"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path: Path, runs: list[Path]) -> None:
    with pytest.raises(UsageError, match="no figure format 'pdf'"):
        write_report(runs, tmp_path / "out", formats=("pdf",))
    assert not (tmp_path / "out").exists()


def test_text_in_a_drawing_keeps_its_digits_while_coordinates_are_cut() -> None:
    svg = '<svg viewBox="0 0 9 9"><path transform="translate(1.23456,2)" d="M0.98765,1"/><text>0.30712</text></svg>'
    element = inline(svg, name="f", alt="x")
    assert "translate(1.23,2)" in element
    assert "M0.98,1" in element
    assert "0.30712" in element


def verdicts_of(path: Path) -> list[list[str]]:
    """The cells of each row of the table of contrasts."""
    section = path.read_text(encoding="utf-8").split('id="verdicts-table"')[1].split("</details>")[0]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', section)
    return [[re.sub(r"<small>.*", "", name), *re.findall(r"<td>(.*?)</td>", cells)] for name, cells in rows]


def text_of(path: Path) -> str:
    import html

    return html.unescape(re.sub(r"<(style|script|svg).*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL))


def test_the_table_of_contrasts_shows_what_the_run_recorded(written: Path, runs: list[Path]) -> None:
    import html

    shown = [[html.unescape(cell) for cell in row] for row in verdicts_of(written)]
    wanted = [
        [row.contrast, row.verdict, row.difference, row.interval, row.p]
        for run in runs
        for row in contrast_table([run])
    ]
    assert len(shown) == 2 * 16 and sorted(shown) == sorted(wanted)
    assert ["joint − best raw part", "below", "−.166", "[−.186, −.146]", "< .001"] in shown
    assert "intervals are not adjusted" in text_of(written)


def test_a_verdict_after_correction_stands_beside_the_interval_that_leaves_0_out(tmp_path: Path) -> None:
    change = {"verdict": "cannot tell after correction", "p_holm": 0.08}
    folder = write_run(tmp_path / "run", contrasts={"joint − average of adapted parts": change})
    shown = verdicts_of(write_report([folder], tmp_path / "out", formats=()))
    assert ["joint − average of adapted parts", change["verdict"], "+.030", "[+.010, +.050]", ".080"] in shown


def test_the_page_of_a_shuffled_run_claims_nothing_about_pairing(tmp_path: Path) -> None:
    path = write_report([write_run(tmp_path / "run", shuffle_pairs=True)], tmp_path / "out", formats=())
    text = text_of(path)
    before = text.split('id="reading"')[0]
    assert "<h1>Control with shuffled pairs: does a joint space" in before
    assert "This run is a control" in before
    about = [line for line in re.split(r"(?<=[.:;]) |\n", before) if "pairing" in line]
    assert about and all("says nothing of pairing" in line or "To test what pairing adds" in line for line in about)
    assert not re.search(r"Retrieval [^<]*(above|cannot tell)", before)


def test_the_page_of_six_seeds_reports_mean_and_range_and_picks_no_winner(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"s{seed}", seed=seed, scores={("trained", "joint"): 0.28 + seed / 100}, epochs=4)
        for seed in range(6)
    ]
    path = write_report(folders, tmp_path / "out", formats=())
    text = text_of(path)
    assert "mean 0.305, range 0.280–0.330" in text and "range 0.280–0.330" in parse(path).cells
    before = text.split('id="reading"')[0]
    assert not any(word in before for word in ("headline", "highest of", "Highest of", "stands nearest", "exploratory"))
    dots = pl.read_csv(tmp_path / "out" / "figures" / "final_alignment.csv")
    (joint,) = dots.filter((pl.col("group") == "joint") & (pl.col("metric") == "mutual_knn")).to_dicts()
    assert (joint["value"], joint["ci_low"], joint["ci_high"]) == (pytest.approx(0.305), 0.28, 0.33)
    assert ["joint − best raw part", "below in 6 of 6", "mean −.168", "range −.193 to −.143"] in verdicts_of(path)


def test_the_page_of_three_sides_shows_every_side_joint_and_direction(tmp_path: Path) -> None:
    three = write_run(tmp_path / "run", sides=(*SIDES, "names-de"), encoders=("vit", "gpt2", "gpt2", "dinov2"))
    path = write_report([three], tmp_path / "out", formats=("svg",))
    text = text_of(path)
    assert "Does a joint space of images (vit), captions (gpt2) and names-de (gpt2) come closer to dinov2?" in text
    assert "joint of captions and names-de, trained" in text and "names-de → images, trained" in text
    figures = tmp_path / "out" / "figures"
    assert pl.read_csv(figures / "final_retrieval.csv")["direction"].n_unique() == 6
    assert set(pl.read_csv(figures / "kernels.csv")["space"]) == {
        *("raw images", "raw captions", "raw names-de", "reference", "joint")
    }
    assert "joint of images and captions" in pl.read_csv(figures / "alignment_over_epochs.csv")["series"].to_list()


def test_the_page_of_a_run_without_reference_speaks_of_its_sides_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", encoders=("resnet18", "gpt2", None))
    path = write_report([folder], tmp_path / "out", formats=())
    text = text_of(path)
    assert "Do adapters bring images (resnet18) and captions (gpt2) together?" in text
    assert "without a reference there are no contrasts" in text.lower() and 'id="verdicts' not in text
    for word in ("the verdicts are above", "read the verdicts", "Best part", "Verdicts, test split", "diamond"):
        assert word not in text, word
    assert "Final agreement of the sides with each other" in text
    assert "with the reference" not in text.split('id="reading"')[0]


def test_a_run_of_featcache_0_1_makes_a_page(tmp_path: Path) -> None:
    path = write_report([FORMAT_1], tmp_path / "out", formats=("svg",))
    text = text_of(path)
    assert "Written by featcache 0.1: no contrasts; train again for verdicts." in text
    assert "linear CKA" in text and "debiased" not in text
    joint = next(row for row in summary_table([FORMAT_1]) if row.group == "joint")
    assert f"{joint.scores['cka_linear'].value:.3f}" in parse(path).cells
    assert "depends on the batch size" in text


def test_the_loss_is_called_what_it_is(written: Path) -> None:
    assert "Loss less that of a guess among the batch, nats (0 = chance)" in text_of(written)


def test_a_run_that_the_trainer_wrote_makes_a_page(tmp_path: Path) -> None:
    from featcache.studies.adapters.train import Workbench, train
    from featcache.trainer import FitConfig
    from tests.trainer_planted import planted

    x, y, reference = planted()
    settings = {"epochs": 2, "width": 16, "permutations": 100, "halves": 20, "untrained": 2}
    config = FitConfig.model_validate(settings)
    run = train(Workbench({"images": x, "captions": y}, reference), config, tmp_path / "run")
    path = write_report([run.path], tmp_path / "out")
    joint = next(row for row in summary_table([run.path]) if row.group == "joint").scores["mutual_knn"]
    assert f"the joint space reaches {joint.value:.3f} [" in path.read_text(encoding="utf-8")
    assert len(list((tmp_path / "out" / "figures").glob("*.png"))) == len(OF_ONE)
    assert len(verdicts_of(path)) == run.table("contrasts").height


def test_importing_the_report_is_cheap() -> None:
    import subprocess
    import sys

    program = "import sys; from featcache.report import summary_table, findings, write_report; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"altair", "polars", "torch", "vl_convert", "numpy"} & set(loaded)


# -- where it is written ----------------------------------------------------------------------------------------------


def test_somebody_elses_page_is_left_alone_and_nothing_is_drawn(tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "run"), tmp_path / "site"
    out.mkdir()
    (out / "index.html").write_text("<!doctype html><title>My lab</title>", encoding="utf-8")
    with pytest.raises(UsageError, match=r"index.html is no page of featcache.*\n  Name another folder"):
        write_report([run], out)
    assert [path.name for path in out.iterdir()] == ["index.html"] and "My lab" in (out / "index.html").read_text()


@pytest.mark.parametrize("old", [False, True])
def test_a_page_of_ours_is_replaced_also_one_from_before_the_mark(tmp_path: Path, old: bool) -> None:
    run, out = write_run(tmp_path / "run"), tmp_path / "page"
    page = write_report([run], out)
    whole = page.read_text(encoding="utf-8")
    mark = '<meta name="generator" content="featcache">\n'
    assert mark in whole
    eyebrow = '<p class="eyebrow">Alignment report</p>\n'
    before = whole.replace(mark, "").replace("<h1>", f"{eyebrow}<h1>") if old else whole
    page.write_text(before.replace("<h1>", "<h1>Before: "), encoding="utf-8")
    assert "<h1>Before: " not in write_report([run], out).read_text(encoding="utf-8")


def test_a_folder_with_other_files_and_no_page_is_written_to(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "one")
    assert write_report([run], tmp_path / "runs").is_file() and (run / "config.json").is_file()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "run"), tmp_path / "file"
    out.write_text("mine")
    with pytest.raises(UsageError, match="no page can be written to .*file"):
        write_report([run], out)


def test_a_page_that_the_disk_cannot_take_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    run = write_run(tmp_path / "run")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputFailed, match="cannot write .*page: No space left on device"):
        write_report([run], tmp_path / "page")
    monkeypatch.undo()
    monkeypatch.setattr(outputs, "sync_file", full)
    with pytest.raises(OutputFailed, match="index.html: No space left on device"):
        write_report([run], tmp_path / "page")
