"""Costs of encoders: operations counted by hand, parameters that are read, times, and the join with scores."""

import json
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from featcache.encoders import Card, EncodeOptions, Encoder, encoder_spec, load_encoder
from featcache.encoders.backbone import Backbone
from featcache.encoders.cost import count_flops, count_parameters, forward_milliseconds
from featcache.encoders.encoder import Footprint
from featcache.encoders.pooling import Inputs, Positions
from featcache.errors import ExtractionFailed, UsageError
from featcache.extraction.cost import CostSettings, measure_cost, measure_costs
from featcache.studies.cost import COSTS, cost_table, with_cost
from tests.fakes import text_dataset


class Network(nn.Module):
    """A convolution, a linear layer over places, attention over them, and a head that no feature needs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, stride=2)
        self.blocks = nn.ModuleList([nn.Linear(4, 4, bias=False)])
        self.position = nn.Parameter(torch.zeros(4))
        self.head = nn.Linear(4, 1000)

    def forward(self, pixels: Tensor) -> Tensor:
        places = self.conv(pixels).flatten(2).mT + self.position
        hidden = self.blocks[0](places)
        return nn.functional.scaled_dot_product_attention(hidden[:, None], hidden[:, None], hidden[:, None])[:, 0]


class Pixels:
    """As `Preprocessor`: a row is its own tensor."""

    longest = 1

    def prepare(self, item: Any) -> Tensor:
        return item

    def cost(self, prepared: Tensor) -> int:
        return 1

    def batches(self, prepared: Any, device: str) -> list[Inputs]:
        return [Inputs(list(range(len(prepared))), {"pixels": torch.stack(list(prepared))}, Positions())]


def tiny_encoder() -> Encoder:
    network = Network().eval().requires_grad_(False)
    backbone = Backbone(
        network,
        lambda inputs: network(inputs["pixels"]),
        (network.blocks[0],),
        False,
        None,
        0,
        None,
        None,
        None,
        "",
        {},
        {},
    )
    card = Card("tiny", "image", {"compute": "float32"}, {"1.mean": 4, "last.mean": 4}, "last.mean", "float32", {})
    return Encoder(card, Pixels(), backbone, EncodeOptions(), row=Footprint(1, 1))  # type: ignore[arg-type]


def test_operations_equal_a_count_by_hand() -> None:
    batches = [[torch.randn(3, 6, 6)] * 5, [torch.randn(3, 6, 6)] * 2]
    places = 9
    convolution = 2 * places * 4 * (3 * 2 * 2)
    linear = 2 * places * 4 * 4
    attention = 2 * (2 * places * places * 4)
    assert count_flops(tiny_encoder(), batches, ["last.mean"]) == convolution + linear + attention


def test_parameters_are_those_that_a_pass_reads() -> None:
    conv, linear, position = 4 * 3 * 2 * 2 + 4, 16, 4
    assert count_parameters(tiny_encoder(), [torch.randn(3, 6, 6)], ["last.mean"]) == conv + linear + position


def test_operations_of_a_text_encoder_are_those_of_its_tokens_and_its_padding(tmp_path: Path) -> None:
    encoder = load_encoder(encoder_spec("minilm"), EncodeOptions(), memo=tmp_path)
    short, long = encoder.prepare("a dog"), encoder.prepare("a dog that runs over a wide green field")

    def by_hand(tokens: int) -> int:
        return 6 * (2 * tokens * 12 * 384**2 + 2 * (2 * tokens**2 * 384))  # attention: 4 d², MLP: 8 d²

    alone = count_flops(encoder, [[short], [long]], ["last.mean"])
    padded = count_flops(encoder, [[short, long]], ["last.mean"])
    assert alone == (by_hand(len(short.ids)) + by_hand(len(long.ids))) / 2
    assert padded == by_hand(len(long.ids))


def test_times_are_medians_a_row_that_one_slow_pass_does_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny_encoder()
    passes: list[int] = []

    def encode(prepared: Any, layers: Any) -> None:
        passes.append(len(prepared))
        time.sleep(0.5 if len(passes) == 4 else 0.004 * len(prepared))

    monkeypatch.setattr(encoder, "encode", encode)
    taken = forward_milliseconds(encoder, [[1, 2], [3, 4]], ["last.mean"], repeats=3)
    assert passes == [2] * 7 and 4 <= taken < 100


class Words:
    """An encoder of text whose rows are prepared slowly; one of them cannot be."""

    card = Card("words", "text", {"compute": "float32"}, {"0.mean": 3, "last.mean": 4}, "last.mean", "float32", {})

    def __init__(self, bad: str = "") -> None:
        self.bad = bad
        self.module = nn.Linear(4, 4, bias=False)
        self.batches: list[int] = []

    def prepare(self, item: str) -> Tensor:
        if self.bad and item.startswith(self.bad):
            raise ExtractionFailed("no tokens")
        time.sleep(0.003)
        return torch.ones(4)

    def cost(self, prepared: Tensor) -> int:
        return 4

    def encode(self, prepared: Any, layers: Any) -> dict[str, Tensor]:
        self.batches.append(len(prepared))
        return {name: self.module(torch.stack(list(prepared))) for name in layers}


def test_a_cost_is_measured_on_rows_spread_over_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    view, encoder = text_dataset(50).views["captions"], Words()
    cost = measure_cost("tiny", view, encoder, "cpu", CostSettings(rows=5, batch=2, repeats=1))  # type: ignore[arg-type]
    assert (cost.layer, cost.width, cost.parameters, cost.flops) == ("last.mean", 4, 16, 32.0)
    assert (cost.rows, cost.batch, cost.device, cost.compute) == (5, 2, "cpu", "float32")
    assert 3 <= cost.prepare_ms < 500 and cost.forward_ms > 0 and cost.threads >= 1 and "cores" in cost.processor
    with pytest.raises(ExtractionFailed, match=r"row .* of captions: no tokens"):
        measure_cost("tiny", view, Words(view.read(7)), "cpu", CostSettings(rows=50))  # type: ignore[arg-type]


def test_a_view_that_does_not_fit_is_refused_before_any_encoder_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no view 'sounds'"):
        measure_costs(
            text_dataset(), [encoder_spec("gpt2")], EncodeOptions(), CostSettings(), view="sounds", memo=tmp_path
        )


# --- the join with scores ---------------------------------------------------------------------------------------


def costs(*names: str, dataset: str = "d", device: str = "cpu") -> pl.DataFrame:
    rows = [
        {"dataset": dataset, "view": view, "encoder": encoder, "device": device, "parameters": 10 * number,
         "flops": 1.5 * number, "prepare_ms": 0.5, "forward_ms": 2.0 * number, "width": number}
        for number, (view, encoder) in enumerate((name.split("/") for name in names), start=1)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def scores(**columns: list[Any]) -> pl.DataFrame:
    return pl.DataFrame({"dataset": ["d"] * len(next(iter(columns.values()))), **columns})


def test_every_row_gets_the_cost_of_the_encoder_that_it_names_and_keeps_its_place() -> None:
    cost = costs("images/big", "captions/bert", "names-de/bert")
    rows = scores(
        reference=["images/big/9.cls", "", "names-de/bert/last.mean", "images/big/last.cls", None],
        value=[5, 4, 3, 2, 1],
    )
    joined = with_cost(rows, cost)
    assert joined["value"].to_list() == [5, 4, 3, 2, 1]
    assert joined["reference_parameters"].to_list() == [10, None, 30, 10, None]
    assert joined["reference_flops"].to_list() == [1.5, None, 4.5, 1.5, None]
    assert set(joined.columns) - set(rows.columns) == {f"reference_{name}" for name in COSTS}


def test_the_costs_of_a_runs_sides_are_added_up() -> None:
    cost = costs("images/big", "captions/bert", "names-de/bert")
    layers = [
        {"images": "big/last.cls", "captions": "bert/last.mean"},
        {"images": "big/last.cls", "captions/bert": "bert/last.mean", "names-de/bert": "bert/last.mean"},
    ]
    joined = with_cost(scores(layers=[json.dumps(each) for each in layers]), cost, on="sides")
    assert joined["sides_parameters"].to_list() == [30, 60] and joined["sides_width"].to_list() == [3, 6]


@pytest.mark.parametrize(
    ("cost", "reference", "said"),
    [
        (
            costs("images/big"),
            "images/small",
            "no cost of images/small over d\n .* cost d small --view images",
        ),
        (costs("images/big", dataset="e"), "big", "no cost of big over d"),
        (costs("captions/bert", "names-de/bert"), "bert", "bert has 2 costs: d captions/bert, d names-de/bert"),
        (pl.concat([costs("images/big"), costs("images/big", device="cuda")]), "big", "several devices, cpu, cuda"),
        (costs("images/big").drop("flops"), "big", "no column flops"),
    ],
    ids=["unknown", "another data set", "two views", "two devices", "no column"],
)
def test_a_name_without_one_cost_is_an_error_that_says_what_to_measure(
    cost: pl.DataFrame, reference: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        with_cost(scores(reference=[reference]), cost)


def test_costs_are_joined_once_and_on_a_column_that_is_there() -> None:
    cost = costs("images/big")
    rows = with_cost(scores(reference=["big"]), cost)
    with pytest.raises(UsageError, match="have the columns reference_parameters, .* already"):
        with_cost(rows, cost)
    with pytest.raises(UsageError, match="no column 'layers'"):
        with_cost(rows, cost, on="sides")


def test_the_command_measures_packaged_encoders_and_writes_a_tidy_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from featcache.commands import extraction

    out = tmp_path / "costs.parquet"
    monkeypatch.setenv("COLUMNS", "160")
    extraction.cost("openmoji", ["minilm"], cache=str(tmp_path / "cache"), rows=3, batch=2, repeats=1, out=out)
    said = capsys.readouterr().out
    assert "captions/minilm" in said and "a multiplication and its addition as two" in " ".join(said.split())
    (row,) = pl.read_parquet(out).to_dicts()
    assert (row["encoder"], row["view"], row["width"], row["rows"]) == ("minilm", "captions", 384, 3)
    assert 10e6 < row["parameters"] < 24e6 and row["flops"] > 1e7 and "torch" in row["versions"]
    assert cost_table([]).is_empty()
