"""TwoNN against a slow loop; it finds the dimension of Gaussians in any space, and leaves repeated rows out."""

import numpy as np
import pytest

from featcache.metrics import errors, intrinsic_dimension, neighbors

RNG = np.random.default_rng


def slow(x, discarded=0.1):
    """Facco et al.'s recipe, one row after the other."""
    ratios = []
    for i in range(len(x)):
        others = sorted(float(np.linalg.norm(x[i] - x[j])) for j in range(len(x)) if j != i)
        ratios.append(others[1] / others[0])
    top = bottom = 0.0
    for place, ratio in enumerate(sorted(ratios)[: int((1 - discarded) * len(x))], start=1):
        top += np.log(ratio) * -np.log(1 - place / len(x))
        bottom += np.log(ratio) ** 2
    return top / bottom


@pytest.mark.parametrize("discarded", [0.1, 0.4])
def test_it_is_the_slope_through_the_origin_of_the_paper(discarded):
    x = RNG(0).standard_normal((120, 4)) @ RNG(1).standard_normal((4, 9))
    result = intrinsic_dimension(x, discarded=discarded)
    assert result.value == pytest.approx(slow(x, discarded), rel=1e-9) and (result.n, result.repeated) == (120, 0)


@pytest.mark.parametrize(("d", "tolerance"), [(2, 0.1), (5, 0.4), (10, 1.2)])
def test_a_gaussian_of_d_dimensions_has_about_d_of_them_in_a_space_of_more(d, tolerance):
    turn = np.linalg.qr(RNG(9).standard_normal((40, 40)))[0][:d]
    values = [intrinsic_dimension(RNG(seed).standard_normal((1500, d)) @ turn).value for seed in range(4)]
    assert np.mean(values) == pytest.approx(d, abs=tolerance)


def test_scale_shift_and_rotation_change_nothing():
    x = RNG(0).standard_normal((200, 6)) ** 3
    turn = np.linalg.qr(RNG(1).standard_normal((6, 6)))[0]
    value = intrinsic_dimension(x).value
    for changed in (1e4 * x, 1e-4 * x, x + 7, x @ turn):
        assert intrinsic_dimension(changed).value == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("copies", [1, 4])
def test_rows_that_repeat_another_are_left_out_wherever_they_stand_and_counted(copies):
    x = RNG(0).standard_normal((100, 5))
    repeated = np.repeat(x[:20], copies, axis=0)
    repeated *= 1 + 1e-8  # what rounding makes of equal rows
    mixed = np.concatenate([x, repeated])[RNG(1).permutation(100 + len(repeated))]
    result = intrinsic_dimension(mixed)
    assert (result.n, result.repeated) == (100, 20 * copies)
    assert result.value == pytest.approx(slow(x), rel=1e-5)


def test_known_neighbours_give_the_same_and_those_of_unit_rows_are_those_by_cosine():
    x = RNG(0).standard_normal((150, 6))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[7] = x[3]
    assert intrinsic_dimension(x, nearest=neighbors(x, k=5).ids) == intrinsic_dimension(x)


def test_too_few_rows_and_rows_without_a_nearest_are_refused():
    with pytest.raises(errors.TooFewRows, match="at least 3 rows that differ, got 2"):
        intrinsic_dimension(np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    with pytest.raises(errors.ConstantSpace, match="as far from its first"):
        intrinsic_dimension(np.eye(6))
    for discarded in (0, 1):
        with pytest.raises(errors.BadChoice, match="discarded"):
            intrinsic_dimension(np.eye(6), discarded=discarded)
