"""The released generator against a straight restatement of its draws, its label tables, and its settings."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split

from featcache.data.errors import DataInvalid
from featcache.data.synthetic.generator import SPLITS, all_bits, draw, modalities, phi
from featcache.data.synthetic.released import Released, label_bits

SMALL = Released(rows=600)


def restated_rows(uniqueness: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both modalities' bits and the labels, drawn row by row from numpy's global stream as the authors' code does."""
    table = Released().table(uniqueness)
    np.random.seed(2)
    np.random.uniform(0, 1, size=(8, 4))  # the weights come first
    codes = [np.random.choice(size, size=rows, p=np.ones(size) / size) for size in (256, 16, 16)]
    x1, x2, labels = [], [], []
    for shared, unique1, unique2 in zip(*codes, strict=True):
        label = np.random.choice(4, p=table[shared, unique1, unique2])
        x1.append([int(bit) for bit in f"{shared:08b}{unique1:04b}"])
        x2.append([int(bit) for bit in f"{shared:08b}{unique2:04b}"])
        labels.append(label)
    return np.array(x1), np.array(x2), np.array(labels)


def restated_phi() -> list[torch.nn.Sequential]:
    torch.manual_seed(0)
    networks: list[torch.nn.Sequential] = []
    for depth in range(11):
        layers: list[torch.nn.Module] = [torch.nn.Linear(12, 12)]
        for _ in range(depth):
            layers += [torch.nn.Tanh(), torch.nn.Linear(12, 12)]
        networks.append(torch.nn.Sequential(*layers))
    return networks


@pytest.mark.parametrize("uniqueness", [0, 3, 8])
def test_rows_splits_and_maps_are_those_of_the_released_draws_to_the_bit(uniqueness: int) -> None:
    wanted = (0, 2, 5)
    ours = {data.phi_depth: data for data in modalities(SMALL, uniqueness, wanted)}
    x1, x2, labels = restated_rows(uniqueness, SMALL.rows)
    for depth, network in enumerate(restated_phi()[: max(wanted) + 1]):
        both = [torch.Tensor(x1).numpy(), network(torch.Tensor(x2)).detach().numpy()]
        stacked = np.array(both).transpose((1, 0, 2))
        x_train, x_rest, y_train, y_rest = train_test_split(stacked, labels, test_size=0.3, stratify=labels)
        x_valid, x_test, y_valid, y_test = train_test_split(x_rest, y_rest, test_size=0.5, stratify=y_rest)
        if depth not in wanted:
            continue
        for split, x, y in zip(SPLITS, (x_train, x_valid, x_test), (y_train, y_valid, y_test), strict=True):
            part = ours[depth].parts[split]
            assert np.array_equal(part.labels, y)
            for side, values in enumerate((part.x1, part.x2)):
                train = np.array(x_train)[:, side]
                standard = (x[:, side] - np.mean(train, axis=0)) / np.std(train, axis=0)
                assert np.array_equal(values, standard), (depth, split, side)


def test_the_rows_have_the_same_bits_at_every_u() -> None:
    first, last = draw(SMALL, 0), draw(SMALL, 8)
    assert np.array_equal(first.shared, last.shared)
    assert np.array_equal(first.unique1, last.unique1) and np.array_equal(first.unique2, last.unique2)


def test_the_label_table_is_the_softmax_of_weighted_bits_reweighted_cell_by_cell() -> None:
    for uniqueness in (1, 6):
        read = label_bits(Released(), uniqueness)
        np.random.seed(2)
        weights = np.random.uniform(0, 1, size=(8, 4))
        weights = weights / np.linalg.norm(weights, axis=1, keepdims=True)
        cells = np.zeros((256, 16, 16, 4))
        for shared in range(256):
            for unique1 in range(16):
                for unique2 in range(16):
                    bits = [
                        *(shared >> (7 - place) & 1 for place in read.shared),
                        *(unique1 >> (3 - place) & 1 for place in read.unique1),
                        *(unique2 >> (3 - place) & 1 for place in read.unique2),
                    ]
                    scores = np.exp(np.array(bits) @ weights / 0.05)
                    cells[shared, unique1, unique2] = scores / scores.sum()
        rounds = 0
        while np.abs(cells.mean(axis=(0, 1, 2)) - 0.25).max() > 0.01 + 1e-5 * 0.25:
            cells = cells * (0.25 / cells.mean(axis=(0, 1, 2)))
            cells /= cells.sum(axis=3, keepdims=True)
            rounds += 1
        assert rounds == 16  # as the authors' code takes
        np.testing.assert_allclose(Released().table(uniqueness), cells, atol=1e-12)


def test_the_bits_that_the_label_reads_are_chosen_in_the_released_order() -> None:
    assert label_bits(Released(), 0).shared == (7, 2, 1, 6, 0, 4, 3, 5)
    read = label_bits(Released(), 8)
    assert (read.shared, read.unique1, read.unique2) == ((), (3, 2, 0, 1), (2, 3, 0, 1))
    assert [len(label_bits(Released(), level).unique1) for level in range(9)] == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_a_maps_values_do_not_depend_on_the_state_of_torch_nor_change_it() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    networks = phi(SMALL)
    assert torch.equal(before, torch.random.get_rng_state())
    assert len(networks) == 11 and [len(network) for network in networks] == list(range(1, 12))
    assert not np.array_equal(networks[1][0][0], networks[2][0][0])  # one stream: no two begin alike


def test_inputs_lie_in_the_order_of_their_codes() -> None:
    (data,) = modalities(SMALL, 4, [3])
    for part in data.parts.values():
        assert np.array_equal(part.x1, data.inputs1[part.codes1])
        np.testing.assert_allclose(part.x2, data.inputs2[part.codes2], atol=1e-5)
    assert all_bits(3)[5].tolist() == [1, 0, 1]


def test_labels_follow_the_table() -> None:
    rows = draw(Released(rows=200_000), 4)
    table = Released().table(4)
    expected = table[rows.shared, rows.unique1, rows.unique2].mean(axis=0)
    observed = np.bincount(rows.labels, minlength=4) / len(rows.labels)
    assert np.abs(observed - expected).max() < 4 * np.sqrt(0.25 * 0.75 / 200_000)


def test_other_sizes_have_other_names_and_tables() -> None:
    other = Released(shared=4, unique=2, used=4, classes=3, temperature=0.2, rows=90)
    assert "temperature=0.2" in other.name and Released().name == "released"
    assert other.table(2).shape == (16, 4, 4, 3)
    np.testing.assert_allclose(other.table(2).sum(axis=3), 1)
    (data,) = modalities(other, 2, [1])
    assert data.parts["train"].x1.shape == (63, 6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"used": 9}, "reads 9 bits"),
        ({"classes": 1}, "classes"),
        ({"temperature": 0.0}, "temperature"),
        ({"rows": 3}, "rows"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(DataInvalid, match=words):
        Released(**settings)  # pyright: ignore[reportArgumentType]


def test_levels_and_maps_that_are_not_there_are_named() -> None:
    with pytest.raises(DataInvalid, match="no level 9"):
        next(modalities(SMALL, 9, [1]))
    with pytest.raises(DataInvalid, match="within 0 to 10"):
        next(modalities(SMALL, 1, [11]))
    with pytest.raises(DataInvalid, match="U = 9"):
        label_bits(SMALL, 9)
