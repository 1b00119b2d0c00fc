"""Residuals and their correlations: closed forms, published numbers, files read by rows."""

import numpy as np
import pytest
import torch

from experiments.residuals.autocorrelation import cross_correlation, denoised, noise_rows
from experiments.residuals.extract import Extraction
from experiments.residuals.files import ArrayFile, is_done, missing_files, save_with_run
from flow.flow import Flow
from tests.helpers import conformance, fill_weights, gaussian_flow, paper_denoiser, random_basis
from training.networks.toy import ToyMLP
from training.precond import InflationPrecond
from training.schedule import Schedule


def chunks(a, b, size):
    return zip(a.split(size), b.split(size), strict=True)


@pytest.mark.parametrize("size", [200, 64, 7])
def test_published_correlations(size):
    _, arrays = conformance("autocorrelation")
    e = arrays["net_residuals"]
    for k, published in enumerate(arrays["net_residual_acs"]):
        found = cross_correlation(chunks(e[0], e[k], size), "published").matrix
        np.testing.assert_allclose(found, published, atol=2e-6)


def test_pearson_is_numpys_correlation_and_has_the_published_diagonal():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((500, 4)) @ rng.standard_normal((4, 4)) + 3
    b = a @ rng.standard_normal((4, 4)) + rng.standard_normal((500, 4))
    pair = torch.from_numpy(a), torch.from_numpy(b)
    pearson = cross_correlation(chunks(*pair, 100))
    np.testing.assert_allclose(pearson.matrix, np.corrcoef(a.T, b.T)[:4, 4:], atol=1e-12)
    np.testing.assert_allclose(pearson.sd_b, b.std(0))
    published = cross_correlation(chunks(*pair, 100), "published").matrix
    np.testing.assert_allclose(published.diagonal(), pearson.matrix.diagonal(), atol=1e-12)
    assert not torch.allclose(published, pearson.matrix, atol=0.01)


def test_a_large_mean_costs_no_digits():
    rng = np.random.default_rng(1)
    a = torch.from_numpy(rng.standard_normal((3000, 3)))
    b = 0.5 * a + torch.from_numpy(rng.standard_normal((3000, 3)))
    exact = cross_correlation([(a, b)]).matrix
    off = (a + 1000).float(), (b - 1000).float()  # which itself rounds at 6e-5
    np.testing.assert_allclose(cross_correlation(chunks(*off, 500)).matrix, exact, atol=2e-5)


def test_a_dimension_that_never_changes_is_nan_and_nothing_else_is():
    a = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    a[:, 1] = 0.3
    found = cross_correlation(chunks(a, a, 20), "pearson")
    assert found.matrix[1].isnan().all()
    assert torch.isfinite(found.matrix[[0, 2]][:, [0, 2]]).all()
    assert found.mean_diagonal == pytest.approx(1)
    with pytest.raises(ValueError, match="no samples"):
        cross_correlation([])


@pytest.mark.parametrize("t", [0.0, 2.0, 6.9])
def test_residual_of_gaussian_data_is_the_posterior_mean_s(t):
    """For y ~ N(0, c): D = c/(c + gamma) (y + noise), in closed form."""
    variances = [0.9, 0.2]
    flow = gaussian_flow([1.5, 0.4], variances, 1)
    rng = np.random.default_rng(0)
    y, n = (torch.from_numpy(rng.standard_normal((100, 2))) for _ in range(2))
    D, e = denoised(flow, flow.model.decode(y), n, t)
    gamma, c = flow.schedule.gamma(t)[0], torch.tensor(variances).double()
    exact = c / (c + gamma) * (y + gamma.sqrt() * n)
    np.testing.assert_allclose(D, exact, atol=1e-9)
    np.testing.assert_allclose(e, exact - y, atol=1e-9)


@pytest.mark.parametrize("space", ["ES", "IS"])
@pytest.mark.parametrize("t", [0.0, 3.0])
def test_errors_are_what_the_exact_field_does_not_leave(space, t):
    """e - g is the residual of the exact field; of the exact field itself g is zero, e is not."""
    exact = gaussian_flow([1.5, 0.4], [0.9, 0.2], 1)
    basis, schedule = exact.model.basis, exact.schedule
    network = fill_weights(ToyMLP(2)).double()
    flow = Flow(InflationPrecond(network, schedule, basis, space=space).eval())
    rng = np.random.default_rng(0)
    x, n = (torch.from_numpy(rng.standard_normal((50, 2))) for _ in range(2))
    _, e, g = denoised(flow, x, n, t, exact.model)
    _, left, none = denoised(exact, x, n, t, exact.model)
    if space == "IS":
        left = left @ basis.W.T
    np.testing.assert_allclose(e - g, left, atol=1e-9)
    np.testing.assert_allclose(none, 0, atol=1e-12)
    assert g.std() > 1e-3
    assert left.std() > 1e-3


@pytest.mark.parametrize("space", ["ES", "IS"])
def test_residual_of_a_network_is_in_the_axes_that_it_was_trained_in(space):
    basis = random_basis([1.5, 1.0, 0.4])
    schedule = Schedule(basis.xi, 2)
    model = InflationPrecond(fill_weights(ToyMLP(3)).double(), schedule, basis, space=space)
    flow = Flow(model.eval())
    rng = np.random.default_rng(0)
    x, n = (torch.from_numpy(rng.standard_normal((20, 3))) for _ in range(2))
    D, e = denoised(flow, x, n, 3.0)
    y = (x - basis.mean) @ basis.W
    noisy = y + schedule.gamma(3.0)[0].sqrt() * n
    if space == "IS":
        y, noisy = y @ basis.W.T, noisy @ basis.W.T
    with torch.no_grad():
        expected = paper_denoiser(model, noisy, torch.full((20,), 3.0, dtype=torch.float64))
    np.testing.assert_allclose(D, expected, atol=1e-9)
    np.testing.assert_allclose(e, expected - y, atol=1e-9)


def test_noise_depends_on_the_sample_and_time_alone():
    whole = noise_rows(3, "fresh", 5, 0, 1500, 2)
    np.testing.assert_array_equal(noise_rows(3, "fresh", 5, 1000, 1100, 2), whole[1000:1100])
    assert not torch.equal(noise_rows(3, "fresh", 6, 0, 1500, 2), whole)
    shared = noise_rows(3, "shared", 5, 0, 1500, 2)
    np.testing.assert_array_equal(noise_rows(3, "shared", 6, 0, 1500, 2), shared)


def test_extraction_does_not_depend_on_how_many_samples_there_are():
    flow = gaussian_flow([1.5, 0.4], [0.9, 0.2], 1)
    flow.block = 100
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1300, 2)))
    many, few = (
        Extraction(flow, [0.0, 1.0], lambda r: x[r.start : r.stop], n, 7, "fresh").at(1)
        for n in (1300, 130)
    )
    assert many["net_residuals"].shape == (1300, 2)
    for key in ("net_outputs", "net_residuals"):
        np.testing.assert_allclose(many[key][:130], few[key], rtol=1e-6)
    np.testing.assert_allclose(
        many["net_outputs"] - many["net_residuals"], many_y(flow, x), atol=2e-6
    )


def many_y(flow, x):
    return flow.model.encode(x).numpy()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_of_a_file(tmp_path, save):
    a, b = np.arange(60.0).reshape(4, 5, 3), np.arange(8, dtype=np.float32).reshape(4, 2)
    save(tmp_path / "x.npz", a=a, b=b)
    file = ArrayFile(tmp_path / "x.npz")
    assert file.shapes == {"a": (4, 5, 3), "b": (4, 2)}
    read = list(file.rows("a", 7, 17, 4))
    assert [len(r) for r in read] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(read), a.reshape(20, 3)[7:17])
    np.testing.assert_array_equal(next(file.rows("b", 1, 4, 10)), b[1:])
    with pytest.raises(ValueError, match="b has 4 rows, 5 were asked for"):
        list(file.rows("b", 0, 5, 2))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_of_a_published_file_in_fortran_order(tmp_path, save):
    a = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    save(tmp_path / "x.npz", a=np.asfortranarray(a), b=np.asfortranarray(a[0]))
    file = ArrayFile(tmp_path / "x.npz")
    assert file.shapes == {"a": (4, 5, 3), "b": (5, 3)}
    read = list(file.rows("a", 7, 17, 4))
    assert [len(r) for r in read] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(read), a.reshape(20, 3)[7:17])
    np.testing.assert_array_equal(np.concatenate(list(file.rows("b", 1, 5, 3))), a[0, 1:])


def test_what_is_there_is_kept_remade_or_refused(tmp_path):
    path, shapes = tmp_path / "x.npz", {"a": (3, 2)}
    assert not is_done(path, {"seed": 1}, shapes)
    save_with_run(path, {"a": np.zeros((3, 2))}, {"seed": 1, "t": 0.5})
    assert is_done(path, {"seed": 1, "t": 0.5}, shapes)
    assert not is_done(path, {"seed": 1}, {"b": (3, 2)})
    with pytest.raises(ValueError, match=r"x.npz is there already, made with seed=1 and not 2"):
        is_done(path, {"seed": 2}, shapes)
    path.write_bytes(path.read_bytes()[:-50])
    assert not is_done(path, {"seed": 1}, shapes)
    with pytest.raises(ValueError, match=r"x.npz: not a readable .npz file"):
        ArrayFile(path)
    with pytest.raises(ValueError, match="no such file"):
        ArrayFile(tmp_path / "y.npz")
    np.savez(tmp_path / "z.npz", a=np.array([{}]))
    with pytest.raises(ValueError, match="not an array of numbers"):
        ArrayFile(tmp_path / "z.npz")
    assert missing_files([path]) == ""
    assert missing_files([path, tmp_path / "t7.npz"]) == "1 of 2 files are missing: t7.npz"
