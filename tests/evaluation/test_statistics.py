"""Distances between sets of features: against closed forms, brute force, scipy, torchmetrics and
torch-fidelity.
"""

import numpy as np
import pytest
import scipy.linalg
import torch

from taming.errors import UserError
from taming.evaluation import manifold
from taming.evaluation.frechet import (
    BlockedMoments,
    Moments,
    classifier_score,
    frechet_distance,
    frechet_extrapolated,
    frechet_streamed,
    moments,
    too_few,
)
from taming.evaluation.intervals import average
from taming.evaluation.kernel import kernel_distance
from taming.evaluation.manifold import (
    copying,
    density_coverage,
    nearest,
    neighbour_radii,
    precision_recall,
)


@pytest.fixture
def draw():
    generator = np.random.default_rng(0)
    return lambda n, d, shift=0.0, scale=1.0: generator.normal(shift, scale, (n, d)).astype(
        np.float32
    )


def gaussian(mean, covariance) -> Moments:
    result = Moments(len(mean))
    result.count, result.mean = 101, np.array(mean, float)
    result.scatter = np.array(covariance, float) * 100
    return result


def test_frechet_distance_of_two_gaussians_is_the_closed_form():
    a, b = gaussian([1, 2, 3], np.diag([1.0, 4, 9])), gaussian([0, 2, 5], np.diag([4.0, 4, 1]))
    assert frechet_distance(a, b) == pytest.approx(
        1 + 0 + 4 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2, rel=1e-12
    )
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_agrees_with_scipys_matrix_root(draw):
    x, y = draw(300, 24) @ np.random.default_rng(1).normal(size=(24, 24)), draw(200, 24, 0.5)
    a, b = moments(x), moments(y)
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(
        np.cov(x.T) + np.cov(y.T) - 2 * root
    )
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_frechet_and_kernel_distance_agree_with_torchmetrics():
    """On the features themselves, by a network that passes them on."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Passing(torch.nn.Module):
        num_features = 12

        def forward(self, x):
            return x.flatten(1).float()

    generator = np.random.default_rng(0)
    x, y = (generator.integers(0, high, (300, 3, 2, 2), dtype=np.uint8) for high in (200, 256))
    fid = FrechetInceptionDistance(feature=Passing(), input_img_size=(3, 2, 2)).set_dtype(
        torch.float64
    )
    kid = KernelInceptionDistance(feature=Passing(), subsets=1, subset_size=300)
    for metric in (fid, kid):
        metric.update(torch.from_numpy(x), real=True)
        metric.update(torch.from_numpy(y), real=False)
    x, y = (v.reshape(300, 12).astype(np.float32) for v in (x, y))
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(float(fid.compute()), rel=1e-4)
    assert kernel_distance(x, y).value == pytest.approx(float(kid.compute()[0]), rel=1e-4)


def test_all_of_them_agree_with_torch_fidelity(draw):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = torch.from_numpy(draw(256, 20)), torch.from_numpy(draw(256, 20, 0.4, 0.8))
    expected = fid_statistics_to_metric(
        fid_features_to_statistics(x), fid_features_to_statistics(y), False
    )
    assert frechet_distance(moments(x.numpy()), moments(y.numpy())) == pytest.approx(
        expected["frechet_inception_distance"], rel=1e-4
    )
    expected = kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=256, verbose=False)
    assert kernel_distance(x.numpy(), y.numpy()).value == pytest.approx(
        expected["kernel_inception_distance_mean"], rel=1e-4
    )
    expected = prc_features_to_metric(
        y, x, prc_neighborhood=3, prc_batch_size=1000, save_cpu_ram=False, verbose=False
    )
    ours = precision_recall(x.numpy(), y.numpy())
    assert ours["precision"].value == pytest.approx(float(expected["precision"]), abs=1e-4)
    assert ours["recall"].value == pytest.approx(float(expected["recall"]), abs=1e-4)
    expected = isc_features_to_metric(x * 3, splits=4, shuffle=False)
    assert classifier_score((x * 3).numpy(), splits=4).value == pytest.approx(
        expected["inception_score_mean"], rel=1e-4
    )


def test_moments_do_not_depend_on_the_pieces(draw):
    x = draw(1000, 6, 100.0)  # far from zero, where sums of squares would cancel
    whole, pieces, other = moments(x), Moments(6), Moments(6)
    for start in range(0, 600, 7):
        pieces.add(x[start : min(start + 7, 600)])
    other.add(x[600:])
    for result in (whole, pieces.merge(other)):
        np.testing.assert_allclose(result.mean, x.astype(float).mean(0), rtol=1e-12)
        np.testing.assert_allclose(result.covariance, np.cov(x.astype(float).T), rtol=1e-9)


def test_a_block_can_be_taken_out_again(draw):
    x = draw(100, 5, 3.0)
    blocked = BlockedMoments(5).add(x[:33]).add(x[33:])
    rest = blocked.total().without(blocked.parts[3])
    np.testing.assert_allclose(
        rest.covariance, np.cov(np.delete(x, range(3, 100, 10), 0).astype(float).T), rtol=1e-9
    )


def test_jackknife_and_extrapolation_see_the_bias_of_few_pictures(draw):
    """The truth is 0; with N = 200 in 16 dimensions the value is far above it."""
    x, y = draw(200, 16), draw(200, 16)
    value = frechet_distance(moments(x), moments(y))
    assert value > 0.5
    assert abs(frechet_extrapolated(x, y)) < 0.2 * value
    streamed = frechet_streamed(BlockedMoments(16).add(x), BlockedMoments(16).add(y))
    assert streamed.bias is not None and abs(value - streamed.bias) < 0.2 * value


def test_intervals_hold_what_they_promise():
    """Those of a mean and of the kernel distance hold the truth in most of forty repetitions."""
    generator, held = np.random.default_rng(3), np.zeros(2)
    for _ in range(40):
        values = generator.exponential(size=80)
        mean = average(values)
        distance = kernel_distance(generator.normal(size=(60, 4)), generator.normal(size=(60, 4)))
        held += [mean.low <= 1 <= mean.high, distance.low <= 0 <= distance.high]
    assert (held >= 33).all() and held[0] < 40


def test_the_kernel_distance_is_unbiased(draw):
    values = [kernel_distance(draw(20, 4), draw(20, 4)).value for _ in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)


def test_jackknife_of_the_kernel_distance_is_that_of_brute_force(draw):
    x, y = draw(8, 3), draw(9, 3, 0.5)
    whole = kernel_distance(x, y)
    drop = lambda side, i: np.delete(side, i, 0)  # noqa: E731
    leave_out = [
        [kernel_distance(drop(x, i), y).value for i in range(8)],
        [kernel_distance(x, drop(y, i)).value for i in range(9)],
    ]
    half = 1.96 * np.sqrt(sum((len(v) - 1) * np.var(v) for v in leave_out))
    assert whole.high - whole.value == pytest.approx(half, rel=1e-6)


def test_precision_and_recall_whose_answers_are_plain():
    real = np.array([[0.0], [1], [2], [3], [10], [11], [12], [13]])
    same = precision_recall(real, real + 0.01)
    assert same["precision"].value == same["recall"].value == 1
    one_mode = precision_recall(real, np.array([[0.1], [0.9], [1.5], [2.2], [2.9]]))
    assert one_mode["precision"].value == 1
    assert one_mode["recall"].value == 0.5  # nothing near the second cluster
    far = precision_recall(real, np.array([[100.0], [101], [102], [103]]))
    assert far["precision"].value == far["recall"].value == 0


def test_density_and_coverage_are_what_brute_force_finds(draw):
    real, fake = draw(40, 3), draw(30, 3, 0.5)
    between = np.linalg.norm(real[:, None] - real[None], axis=-1)
    radii = np.sort(between, axis=1)[:, 5]
    distances = np.linalg.norm(fake[:, None] - real[None], axis=-1)
    figures = density_coverage(real, fake, k=5)
    assert figures["density"].value == pytest.approx((distances < radii).sum() / (5 * 30))
    assert figures["coverage"].value == pytest.approx((distances.min(axis=0) < radii).mean())


def test_tiles_change_nothing(draw, monkeypatch):
    real, fake = draw(60, 4), draw(50, 4, 0.3)
    whole = (
        precision_recall(real, fake)
        | density_coverage(real, fake)
        | {"kd": kernel_distance(real, fake)}
    )
    near = nearest(fake, real)
    monkeypatch.setattr(manifold, "TILE", 7)
    parts = (
        precision_recall(real, fake)
        | density_coverage(real, fake)
        | {"kd": kernel_distance(real, fake)}
    )
    for name, estimate in whole.items():
        assert parts[name].value == pytest.approx(estimate.value, rel=1e-12), name
    np.testing.assert_allclose(nearest(fake, real)[0], near[0])
    np.testing.assert_array_equal(nearest(fake, real)[1], near[1])


def test_copying_is_a_half_for_equals_and_one_for_copies(draw):
    train, held_out, fresh = draw(400, 4), draw(100, 4), draw(100, 4)
    to_train = lambda x: nearest(x, train)[0]  # noqa: E731
    assert copying(to_train(fresh), to_train(held_out)).value == pytest.approx(0.5, abs=0.12)
    assert copying(to_train(train[:100] + 1e-3), to_train(held_out)).value == pytest.approx(
        1, abs=0.01
    )
    assert nearest(train[7:8], train)[1] == [7]


def test_too_few_pictures_and_broken_features_are_refused(draw):
    with pytest.raises(UserError, match="1 picture has no covariance"):
        moments(draw(1, 4)).covariance  # noqa: B018
    broken = draw(5, 4)
    broken[3, 1] = np.nan
    with pytest.raises(UserError, match="picture 3 are not finite"):
        moments(broken)
    with pytest.raises(UserError, match="3 pictures: too few for the 3 nearest neighbours of each"):
        neighbour_radii(draw(3, 2), 3)
    assert (
        "singular" in too_few(10, 16)
        and "too large" in too_few(100, 16)
        and too_few(200, 16) is None
    )
