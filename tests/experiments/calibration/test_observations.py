"""Calibration by held-out data: an exact posterior passes, broken ones fail for their reasons."""

from types import SimpleNamespace

import numpy as np
import pytest

import toy_train
from experiments.calibration.observations import calibrate, drawn, references
from experiments.density.density import noise_at_start
from flow import Posterior, load_flow, observe
from tests.image_networks import good
from training.data.toys import ToySource, exact_mixture

SD = 0.1
CIRCLES = exact_mixture("circles", points=48)
MEANS, VARIANCE = CIRCLES["means"].numpy(), float(CIRCLES["covariance"])


def see(x, rng):
    """One coordinate, with noise."""
    return x[:1] + SD * rng.standard_normal(1)


def log_likelihood(y, x):
    return -0.5 * (y[0] - x[:, 0]) ** 2 / SD**2


def exact(y, n, seed, variance=SD**2):
    """Draws of the posterior in closed form: each Gaussian of the rings stays one."""
    rng = np.random.default_rng(seed)
    log_weight = -0.5 * (y[0] - MEANS[:, 0]) ** 2 / (VARIANCE + variance)
    weight = np.exp(log_weight - log_weight.max())
    mean = MEANS[rng.choice(len(MEANS), n, p=weight / weight.sum())]
    gain = VARIANCE / (VARIANCE + variance)
    first = mean[:, 0] + gain * (y[0] - mean[:, 0])
    sds = np.sqrt([gain * variance, VARIANCE])
    return np.stack([first, mean[:, 1]], 1) + sds * rng.standard_normal((n, 2))


def prior(y, n, seed):
    rng = np.random.default_rng(seed)
    mean = MEANS[rng.integers(0, len(MEANS), n)]
    return mean + np.sqrt(VARIANCE) * rng.standard_normal((n, 2))


def repeated(y, n, seed):
    """As a chain that moves every twentieth step, or draws of few weights."""
    return np.repeat(exact(y, n // 20 + 1, seed), 20, axis=0)[:n]


def smaller(y, n, seed):
    """The posterior of another prior: rings that are flatter."""
    return exact(y, n, seed) * [1, 0.8]


@pytest.fixture(scope="module")
def truths():
    return ToySource("circles").samples(11, 0, 200).numpy()


def test_the_exact_posterior_passes(truths):
    found = calibrate(truths, see, exact, log_likelihood=log_likelihood)
    assert found.passed, found.line()
    assert found.line() == "TARP and ranks of 200 held-out truths, 99 draws each: PASS"
    assert found.summary()["effective_draws"]["median"] == 99
    assert set(found.tests) == {"tarp", "likelihood", "x1", "x2"}


BROKEN = {
    "likelihood variance half": (lambda y, n, s: exact(y, n, s, SD**2 / 2), "likelihood"),
    "likelihood variance double": (lambda y, n, s: exact(y, n, s, SD**2 * 2), "likelihood"),
    "the prior": (prior, "tarp"),
    "repeated draws": (repeated, "effective draws 5, fewer than 50"),
    "told to be few": (
        lambda y, n, s: SimpleNamespace(x=exact(y, n, s), effective=np.array([20.0, 90.0])),
        "effective draws 20, fewer than 50",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_samplers_fail(truths, what):
    sampler, why = BROKEN[what]
    found = calibrate(truths, see, sampler, log_likelihood=log_likelihood)
    assert not found.passed
    assert why in found.line()
    assert ": FAIL (" in found.line()


def test_independent_references_let_the_prior_pass(truths):
    """Which is why references depend on the observation."""

    def anywhere(y, rng):
        return rng.uniform(-2, 2, 2)

    found = calibrate(truths, see, prior, reference=anywhere)
    assert found.passed, found.line()


def test_another_prior_fails(truths):
    assert "x2" in calibrate(truths, see, smaller).line()


def test_a_reference_does_not_see_its_truth(truths):
    seen = [see(x, np.random.default_rng(i)) for i, x in enumerate(truths)]
    whole = references(truths, seen, 0, None)
    moved = truths.copy()
    moved[0] += 5.0
    other = references(moved, seen, 0, None)
    spread = (truths - whole).std(0)
    assert np.abs(whole[0] - other[0]).max() < spread.max()  # of the noise's size alone
    assert np.corrcoef(whole[:, 0], [y[0] for y in seen])[0, 1] > 0.9


def test_dimensions_that_do_not_vary_are_left_out():
    rng = np.random.default_rng(0)
    truths = np.column_stack([rng.standard_normal(60), np.zeros(60)])

    def sample(y, n, seed):
        r = np.random.default_rng(seed)
        return np.column_stack([0.5 * y[0] + np.sqrt(0.5) * r.standard_normal(n), np.zeros(n)])

    found = calibrate(truths, lambda x, r: x[:1] + r.standard_normal(1), sample)
    assert set(found.tests) == {"tarp", "x1"}
    assert found.passed, found.line()


def test_what_cannot_be_is_refused(truths):
    with pytest.raises(ValueError, match="5 truths cannot tell"):
        calibrate(truths[:5], see, exact)
    with pytest.raises(ValueError, match=r"sample\(\) returned \(98, 2\) for observation 0"):
        calibrate(truths, see, lambda y, n, s: exact(y, n - 1, s))
    with pytest.raises(ValueError, match="2 values not finite"):
        drawn(np.array([[np.nan, 0.0], [0.0, np.inf]]), 2, 2, 0)


def test_the_same_credibilities_as_sbi(truths):
    """A yardstick: sbi's TARP of the same draws and references."""
    torch, tarp = pytest.importorskip("torch"), pytest.importorskip("sbi.diagnostics.tarp")
    draws = {}

    def sample(y, n, seed):
        draws[len(draws)] = exact(y, n, seed)
        return draws[len(draws) - 1]

    found = calibrate(truths, see, sample, reference=lambda y, rng: np.array([y[0], 0.0]))
    from torch_utils import seeding

    seen = [see(x, seeding.generator(0, "observation", i)) for i, x in enumerate(truths)]
    points = np.stack([np.array([y[0], 0.0]) for y in seen]) / truths.std(0)
    stacked = np.stack([draws[i] for i in range(len(truths))], 1) / truths.std(0)
    given = [torch.from_numpy(a).float() for a in (stacked, truths / truths.std(0), points)]
    ecp, alpha = tarp._run_tarp(*given, num_bins=20)
    ours = [(found.credibility < a).mean() for a in alpha.numpy()]
    np.testing.assert_allclose(ours, ecp.numpy(), atol=0.03)


@pytest.mark.slow
def test_trained_circles_through_the_posterior(tmp_path):
    """One coordinate of 200 held-out data seen: the posterior passes; with twice the noise variance
    in its likelihood it fails.
    """
    args = ["--data_name=circles", "--duration=3", "--nosubdir", "--no-plot", "--device=cpu"]
    good(toy_train.main, f"--outdir={tmp_path}", *args)
    flow, n = load_flow(tmp_path), 200
    truths = (ToySource("circles").samples(2**40, 0, n) + noise_at_start(flow, 5, 0, n)).numpy()

    def sampler(factor):
        def sample(y, n, seed):
            seen = observe([y[0], np.nan], noise=SD * factor**0.5)
            return Posterior(flow, seen).sample(n, seed, "importance", particles=2048)

        return sample

    found = [calibrate(truths, see, sampler(f), log_likelihood=log_likelihood) for f in (1, 2)]
    assert found[0].passed, found[0].line()
    assert "likelihood" in found[1].tests
    assert not found[1].passed
