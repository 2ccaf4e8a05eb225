"""Stacked networks against the same networks trained one at a time with torch's own modules and optimiser."""

import numpy as np
import pytest
import torch

from featcache.trainer.ensembles.fit import FitSettings, Rows, accuracies, columns, fit_classifiers
from featcache.trainer.ensembles.flat import FlatParameters, Rates, StackedAdamW
from featcache.trainer.ensembles.mlp import MlpEnsemble, Shape, initial_mlps
from featcache.trainer.errors import EnsembleInvalid, TrainingDiverged

# clips that bite, clips that do not, decays of 0 and more
RATES = [Rates(0.01, 0.0, 8.0), Rates(0.002, 0.1, 0.05), Rates(0.05, 0.01, 0.5)]


def rows_of(n: int, members: int, d: int, dtype: torch.dtype, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, members, d, generator=generator, dtype=torch.float64).to(dtype)
    labels = (x[..., 0] * x[..., 1] > 0).long() + (x[..., 2] > 0.5).long()
    return Rows(x, labels)


def trained_alone(
    shape: Shape, seed: int, rates: Rates, rows: tuple[torch.Tensor, torch.Tensor], settings: FitSettings
) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for number in range(shape.depth):
        layers.append(torch.nn.Linear(shape.inputs if number == 0 else shape.width, shape.width))
        layers.append(torch.nn.Tanh() if shape.activation == "tanh" else torch.nn.LeakyReLU(0.1))
    network = torch.nn.Sequential(*layers, torch.nn.Linear(shape.width, shape.outputs)).to(rows[0].dtype)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rates.learning_rate, weight_decay=rates.weight_decay)
    order, steps = torch.Generator().manual_seed(settings.seed), 0
    while steps < settings.steps:
        for batch in torch.randperm(len(rows[0]), generator=order).split(settings.batch):
            if steps == settings.steps:
                break
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(rows[0][batch]), rows[1][batch]).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), rates.clip)
            optimizer.step()
            steps += 1
    return network


@pytest.mark.parametrize("activation", ["leaky_relu", "tanh"])
@pytest.mark.parametrize(("steps", "dtype", "tolerance"), [(1, torch.float32, 1e-6), (100, torch.float64, 1e-9)])
def test_members_equal_networks_trained_one_at_a_time(
    activation: str, steps: int, dtype: torch.dtype, tolerance: float
) -> None:
    shape = Shape(6, 5, 3, 3, activation)  # pyright: ignore[reportArgumentType]
    settings = FitSettings(steps, batch=32, seed=4)
    rows = rows_of(200, 3, 6, dtype)
    ensemble = initial_mlps(shape, [7, 8, 7], dtype=dtype)
    fit_classifiers(ensemble, RATES, rows, rows_of(40, 3, 6, dtype, 1), settings)
    for number, rates in enumerate(RATES):
        alone = trained_alone(shape, [7, 8, 7][number], rates, (rows.x[:, number], rows.labels[:, number]), settings)
        ours = ensemble.member(number)
        assert [type(layer) for layer in ours] == [type(layer) for layer in alone]
        for a, b in zip(ours.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=tolerance, rtol=0)
        torch.testing.assert_close(
            ensemble(columns(rows.x))[number].T, alone(rows.x[:, number]), atol=100 * tolerance, rtol=0
        )


def test_a_member_does_not_depend_on_its_companions() -> None:
    shape, settings = Shape(6, 5, 2, 3), FitSettings(30, batch=16)
    rows, valid = rows_of(100, 3, 6, torch.float64), rows_of(40, 3, 6, torch.float64, 1)
    together = fit_classifiers(initial_mlps(shape, [1, 2, 3], dtype=torch.float64), RATES, rows, valid, settings)
    alone = fit_classifiers(
        initial_mlps(shape, [2], dtype=torch.float64), RATES[1:2],
        Rows(rows.x[:, 1:2], rows.labels[:, 1:2]), Rows(valid.x[:, 1:2], valid.labels[:, 1:2]), settings,
    )  # fmt: skip
    torch.testing.assert_close(together.ensemble.flat.values[1], alone.ensemble.flat.values[0], atol=1e-12, rtol=0)
    assert together.accuracy[1] == alone.accuracy[0] and together.step[1] == alone.step[0]


def test_residual_layers_add_the_layer_before() -> None:
    ensemble = initial_mlps(Shape(4, 4, 3, 2, "residual"), [0, 1])
    x = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    layers = ensemble.hidden(x)
    for number in range(2):
        hidden = torch.nn.functional.leaky_relu(
            ensemble.weights[0][number] @ x[number] + ensemble.biases[0][number], 0.1
        )
        for weight, bias in zip(ensemble.weights[1:-1], ensemble.biases[1:-1], strict=True):
            hidden = hidden + torch.nn.functional.leaky_relu(weight[number] @ hidden + bias[number], 0.1)
        torch.testing.assert_close(layers[-1][number], hidden)
    with pytest.raises(EnsembleInvalid, match="residual"):
        ensemble.member(0)


def test_best_validation_parameters_are_kept_and_the_first_of_equals() -> None:
    shape, rows, valid = Shape(6, 8, 1, 3), rows_of(300, 2, 6, torch.float32), rows_of(101, 2, 6, torch.float32, 1)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    ensemble = initial_mlps(shape, [0, 1])
    fitted = fit_classifiers(
        ensemble, [Rates(0.05), Rates(0.3)], rows, valid, FitSettings(60, batch=30),
        lambda step, total: seen.append((accuracies(ensemble, valid), ensemble.flat.values.detach().clone())),
    )  # fmt: skip
    assert len(seen) == 6
    history = torch.stack([accuracy for accuracy, _ in seen])
    for member in range(2):
        best = int(history[:, member].argmax())
        assert fitted.step[member] == 10 * (best + 1) and fitted.accuracy[member] == history[best, member]
        assert torch.equal(fitted.ensemble.flat.values[member], seen[best][1][member])
    assert torch.equal(accuracies(fitted.ensemble, valid), fitted.accuracy)


def test_initial_values_are_torchs_own_and_go_on_behind_another_network() -> None:
    shape, first = Shape(5, 4, 2, 3), Shape(6, 3, 1, 2)
    ensemble = initial_mlps(shape, [3, 9], after=first)
    before = torch.random.get_rng_state()
    for number, seed in enumerate((3, 9)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for below, above in first.sizes:
                torch.nn.Linear(above, below)
            linears = [torch.nn.Linear(above, below) for below, above in shape.sizes]
        for linear, weight, bias in zip(linears, ensemble.weights, ensemble.biases, strict=True):
            assert torch.equal(linear.weight, weight[number]) and torch.equal(linear.bias, bias[number, :, 0])
    assert torch.equal(before, torch.random.get_rng_state())


def test_training_learns_what_each_data_set_holds() -> None:
    rows = rows_of(2_000, 2, 6, torch.float32)
    shuffled = rows.labels[:, 1][torch.randperm(2_000, generator=torch.Generator().manual_seed(0))]
    rows = Rows(rows.x, torch.stack([rows.labels[:, 0], shuffled], dim=1))
    fitted = fit_classifiers(
        initial_mlps(Shape(6, 16, 2, 3), [0, 0]), [Rates(0.01)] * 2, rows, rows_of(500, 2, 6, torch.float32, 1),
        FitSettings(300, batch=100),
    )  # fmt: skip
    assert fitted.accuracy[0] > 0.85 and fitted.accuracy[1] < 0.6


def test_what_does_not_belong_together_is_refused() -> None:
    rows, shape = rows_of(20, 2, 6, torch.float32), Shape(6, 4, 1, 3)
    with pytest.raises(EnsembleInvalid, match="2 data sets for 3 members"):
        fit_classifiers(initial_mlps(shape, [0, 1, 2]), RATES, rows, rows, FitSettings(1))
    with pytest.raises(EnsembleInvalid, match="1 rates for 2 members"):
        StackedAdamW(initial_mlps(shape, [0, 1]).flat, [Rates(0.1)])
    with pytest.raises(EnsembleInvalid, match="above 0"):
        StackedAdamW(initial_mlps(shape, [0]).flat, [Rates(0.0)])
    with pytest.raises(EnsembleInvalid, match="parameters"):
        MlpEnsemble(shape, torch.zeros(2, 3))
    with pytest.raises(EnsembleInvalid, match="1 or more"):
        Shape(6, 4, 0, 3)
    with pytest.raises(EnsembleInvalid, match="wanted one of"):
        Shape(6, 4, 1, 3, "gelu")  # pyright: ignore[reportArgumentType]
    with pytest.raises(EnsembleInvalid, match="steps"):
        fit_classifiers(initial_mlps(shape, [0, 1]), RATES[:2], rows, rows, FitSettings(0))


def test_a_member_that_diverges_is_named() -> None:
    rows, shape = rows_of(20, 2, 6, torch.float32), Shape(6, 4, 1, 3)
    broken = Rows(rows.x.clone(), rows.labels)
    broken.x[:, 1] = float("nan")
    with pytest.raises(TrainingDiverged, match="member 1 of the ensemble"):
        fit_classifiers(initial_mlps(shape, [0, 1]), RATES[:2], broken, rows, FitSettings(2))


def test_tensors_share_the_buffer() -> None:
    parameters = FlatParameters([(2, 3), (2, 1)], members=2)
    with torch.no_grad():
        parameters.tensors[1][1, 0, 0] = 5.0
    assert parameters.values[1].tolist() == [0, 0, 0, 0, 0, 0, 5, 0]
    (parameters.tensors[0] * 2).sum().backward()
    gradients = parameters.take_gradients()
    assert gradients.tolist() == [[2.0] * 6 + [0.0] * 2] * 2
    assert all(tensor.grad is None for tensor in parameters.tensors)
    assert np.shares_memory(parameters.values.detach().numpy(), parameters.tensors[0].detach().numpy())
