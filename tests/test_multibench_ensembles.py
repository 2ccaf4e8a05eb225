"""Stacked transformers are the networks that torch would have trained one by one."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from featcache.trainer.ensembles.flat import Rates, StackedAdamW
from featcache.trainer.ensembles.sequences import (
    FittedSequences,
    SequenceRows,
    SequenceSettings,
    Task,
    fit_sequences,
    hidden_of,
    outputs_of,
    performance,
    summed_loss,
)
from featcache.trainer.ensembles.transformer import (
    Dropout,
    Pool,
    TransformerShape,
    initial_transformers,
)
from featcache.trainer.errors import EnsembleInvalid, TrainingDiverged
from featcache.trainer.optimizer import AdamW

RATES = [Rates(1e-3, 0.0, 8.0), Rates(5e-3, 0.1, 0.5), Rates(1e-2, 0.01, 0.05)]
SEEDS = [3, 4, 5]


class Network(torch.nn.Module):
    """One network of torch's own modules, built in the order in which the study builds it."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        width = shape.width
        self.first = shape.pool == "cls"
        self.proj = torch.nn.Linear(shape.inputs, width)
        layer = torch.nn.TransformerEncoderLayer(width, 1, width, dropout=0.0)
        self.layers = torch.nn.TransformerEncoder(layer, shape.depth, enable_nested_tensor=False)
        if self.first:
            self.cls = torch.nn.Parameter(torch.randn(1, 1, width))
        self.positions = torch.nn.Parameter(torch.randn(1, shape.steps + self.first, width))
        self.head = torch.nn.Linear(width, shape.outputs)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        x = self.proj(x)
        if self.first:
            x = torch.cat([self.cls.repeat(len(x), 1, 1), x], dim=1)
            padding = None if padding is None else torch.cat([padding.new_zeros(len(x), 1), padding], dim=1)
        x = (x + self.positions[:, : x.shape[1]]).transpose(0, 1)
        x = self.layers(x, src_key_padding_mask=padding)
        return self.head(x[0] if self.first else x.mean(dim=0))


def networks(shape: TransformerShape, dtype: torch.dtype) -> list[Network]:
    made = []
    with torch.random.fork_rng():
        for seed in SEEDS:
            torch.manual_seed(seed)
            made.append(Network(shape).to(dtype))
    return made


def named(network: Network, name: str) -> torch.nn.Parameter:
    layer, _, part = name.partition(".")
    if layer.isdigit():
        part = f"self_attn.{part}" if "proj" in part else part
        name = f"layers.layers.{layer}.{part}"
    return network.get_parameter(name)


def draw(generator: torch.Generator, dtype: torch.dtype, *, padded: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """Another batch for every member."""
    x = torch.randn(3, 16, 7, 5, generator=generator, dtype=torch.float64).to(dtype)
    lengths = torch.randint(1, 8, (3, 16, 1), generator=generator)
    return x, torch.arange(7) >= lengths if padded else None, torch.randint(0, 2, (3, 16), generator=generator)


class Pairing:
    """An ensemble and networks of their own, trained on the same batches."""

    def __init__(self, shape: TransformerShape, dtype: torch.dtype) -> None:
        self.ensemble, self.apart = initial_transformers(shape, SEEDS, dtype=dtype), networks(shape, dtype)
        self.ours, self.generator = StackedAdamW(self.ensemble.flat, RATES), torch.Generator().manual_seed(0)
        # as torch.optim.AdamW, which takes longer to import than all of this
        self.theirs = [
            AdamW(network.parameters(), [], rate.weight_decay) for network, rate in zip(self.apart, RATES, strict=True)
        ]
        self.dtype = dtype

    def backward(self, *, padded: bool = True) -> None:
        x, padding, labels = draw(self.generator, self.dtype, padded=padded)
        summed_loss(self.ensemble(x, padding), labels, "classification").backward()
        for e, network in enumerate(self.apart):
            outputs = network(x[e], None if padding is None else padding[e])
            torch.nn.functional.cross_entropy(outputs, labels[e]).backward()

    def step(self) -> None:
        self.ours.step()
        for network, optimizer, rate in zip(self.apart, self.theirs, RATES, strict=True):
            torch.nn.utils.clip_grad_norm_(network.parameters(), rate.clip)
            optimizer.step(rate.learning_rate)

    def gaps(self) -> Iterator[tuple[str, int, Tensor]]:
        for e, network in enumerate(self.apart):
            for name, tensor in self.ensemble.tensors.items():
                yield name, e, (tensor[e].flatten() - named(network, name).flatten()).abs()


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_initial_values_are_those_of_torchs_modules(pool: Pool) -> None:
    shape = TransformerShape(5, 6, 3, 7, 2, pool)
    ensemble = initial_transformers(shape, SEEDS)
    for e, network in enumerate(networks(shape, torch.float32)):
        assert sum(p.numel() for p in network.parameters()) == ensemble.flat.values.shape[1]
        for name, tensor in ensemble.tensors.items():
            assert torch.equal(tensor[e].flatten(), named(network, name).flatten()), name


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_one_step_in_float32_is_that_of_networks_trained_apart(pool: Pool, padded: bool) -> None:
    both = Pairing(TransformerShape(5, 6, 3, 7, 2, pool), torch.float32)
    both.backward(padded=padded)
    gradients: dict[tuple[str, int], Tensor] = {}
    for e, network in enumerate(both.apart):
        for name, tensor in both.ensemble.tensors.items():
            theirs = named(network, name).grad
            assert theirs is not None and tensor.grad is not None
            torch.testing.assert_close(tensor.grad[e].flatten(), theirs.flatten(), rtol=1e-5, atol=1e-6)
            gradients[name, e] = theirs.flatten().clone()
    both.step()
    for name, e, gap in both.gaps():
        # AdamW's first step is a gradient's sign, so one that is 0 but for rounding, as that of the bias of keys always
        # is, takes a step of any size; all others agree.
        real = gradients[name, e].abs() > 1e-5
        assert real.any() and gap[real].max() <= 1e-6, name


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_a_hundred_steps_in_float64_are_those_of_networks_trained_apart(pool: Pool) -> None:
    both = Pairing(TransformerShape(5, 6, 3, 7, 2, pool), torch.float64)
    for _ in range(100):
        both.backward()
        both.step()
    assert max(gap.detach().max().item() for _, _, gap in both.gaps()) < 1e-9


def rows(n: int, seed: int, task: Task, *, padded: bool = True) -> SequenceRows:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=generator)
    values = torch.randn(n, 6, 4, generator=generator) + 1.5 * labels[:, None, None]
    padding = torch.arange(6) >= torch.randint(1, 7, (n, 1), generator=generator) if padded else None
    return SequenceRows(values, padding, 2.0 * labels - 0.8 if task == "regression" else labels)


def fitted(seeds: list[int], task: Task = "classification", epochs: int = 4, rate: float = 5e-3) -> FittedSequences:
    shape = TransformerShape(4, 4, 2, 6, 1 if task == "regression" else 2)
    settings = SequenceSettings(task, epochs, batch=16, dropout=0.1)
    data = rows(40, 0, task), rows(24, 1, task)
    return fit_sequences(initial_transformers(shape, seeds), [Rates(rate)] * len(seeds), seeds, data, settings)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_what_is_kept_is_the_best_epoch_and_does_better_than_chance(task: Task) -> None:
    result = fitted([1, 2], task, epochs=12)
    valid = rows(24, 1, task)
    outputs = outputs_of(result.ensemble, valid, batch=7)
    reached = performance(outputs, valid.targets, task)
    if task == "classification":
        torch.testing.assert_close(result.validation, reached)
    else:
        torch.testing.assert_close(result.validation, (outputs[..., 0] - valid.targets).abs().mean(dim=1))
    assert (reached > 0.75).all()
    first = fitted([1, 2], task, epochs=int(result.epoch[0]))  # trained no longer than to the epoch that was kept
    assert torch.equal(first.ensemble.flat.values[0], result.ensemble.flat.values[0])


def test_a_member_becomes_the_same_alone_and_among_others() -> None:
    alone, among = fitted([7]), fitted([3, 7, 9])
    torch.testing.assert_close(alone.ensemble.flat.values[0], among.ensemble.flat.values[1], rtol=1e-4, atol=1e-5)
    assert alone.epoch[0] == among.epoch[1]
    assert not torch.equal(among.ensemble.flat.values[0], among.ensemble.flat.values[1])


def test_hidden_layers_are_pooled_and_the_last_one_is_what_the_head_reads() -> None:
    ensemble, data = initial_transformers(TransformerShape(4, 4, 3, 6, 2), [1, 2]), rows(10, 0, "classification")
    layers = hidden_of(ensemble, data, batch=4)
    assert [tuple(layer.shape) for layer in layers] == [(2, 10, 4)] * 3
    torch.testing.assert_close(ensemble.head(layers[-1]), outputs_of(ensemble, data))


def test_what_padding_holds_changes_no_other_step_and_a_cls_step_never_sees_it() -> None:
    for pool in ("mean", "cls"):
        ensemble = initial_transformers(TransformerShape(4, 4, 1, 6, 2, pool), [1])
        data = rows(10, 0, "classification")
        assert data.padding is not None
        other = data.values.clone()
        other[data.padding] = 9.0
        same = torch.equal(
            outputs_of(ensemble, data), outputs_of(ensemble, SequenceRows(other, data.padding, data.targets))
        )
        assert same == (pool == "cls")  # the mean is over all steps, padding among them


def test_dropout_keeps_the_mean_and_draws_from_each_members_stream() -> None:
    streams = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    value = Dropout(0.25, streams)(torch.ones(3, 400, 50))
    assert value.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(value[0], value[1]) and not torch.equal(value[0], value[2])
    assert value.mean(dim=(1, 2)).tolist() == pytest.approx([1.0] * 3, abs=0.02)


def test_zero_counts_as_negative() -> None:
    outputs = torch.tensor([[[0.0], [0.1], [-2.0], [3.0]]])
    assert performance(outputs, torch.tensor([0.0, 0.0, -1.0, 2.0]), "regression").tolist() == [0.75]


def test_what_does_not_belong_together_is_refused() -> None:
    shape = TransformerShape(4, 4, 1, 6, 2)
    data = rows(8, 0, "classification"), rows(8, 1, "classification")
    with pytest.raises(EnsembleInvalid, match="1 seeds for 2 members"):
        fit_sequences(
            initial_transformers(shape, [1, 2]), [Rates(0.1)] * 2, [1], data, SequenceSettings("classification")
        )
    with pytest.raises(EnsembleInvalid, match="every size 1 or more"):
        TransformerShape(4, 4, 0, 6, 2)
    with pytest.raises(EnsembleInvalid, match="1 or more epochs"):
        SequenceSettings("regression", epochs=0)
    with pytest.raises(EnsembleInvalid, match="dropout 1"):
        Dropout(1.0, [])
    broken = SequenceRows(data[0].values * float("inf"), data[0].padding, data[0].targets)
    with pytest.raises(TrainingDiverged, match="member 0 of the ensemble"):
        fit_sequences(
            initial_transformers(shape, [1]),
            [Rates(0.1)],
            [1],
            (broken, data[1]),
            SequenceSettings("classification", 1),
        )
