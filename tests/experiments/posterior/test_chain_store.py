"""Chains on disk: what is kept, what is refused, and how draws are thinned."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.posterior import flow_sampler, nuts_sampler
from experiments.posterior.chain_store import ChainStore, packed, unpacked
from experiments.posterior.chains import (
    TRAJECTORY_BYTES,
    fingerprint,
    gather,
    kept,
    record_every,
)
from experiments.posterior.options import SamplerOptions
from tests.experiments.posterior.linear_gaussian import linear_problem


def test_arrays_come_back_and_strangers_are_refused(tmp_path):
    store = ChainStore(tmp_path / "state", "nuts", 3, "abc")
    assert store.load() is None
    store.save({"w": np.arange(3.0), "count": 7})
    found = ChainStore(tmp_path / "state", "nuts", 3, "abc").load()
    np.testing.assert_array_equal(found["w"], np.arange(3.0))
    assert int(found["count"]) == 7
    assert ChainStore(tmp_path / "state", "nuts", 4, "abc").load() is None
    with pytest.raises(ValueError, match=r"nuts-chain03.npz is a chain of other data"):
        ChainStore(tmp_path / "state", "nuts", 3, "other").load()


def test_a_damaged_state_falls_back_to_the_one_before(tmp_path, capsys):
    store = ChainStore(tmp_path, "flow", 0, "abc")
    for step in (1, 2):
        store.save({"step": step, "w": np.full(100, float(step))})
    assert int(store.load()["step"]) == 2
    path, before = tmp_path / "flow-chain00.npz", tmp_path / "flow-chain00-before.npz"
    raw = bytearray(path.read_bytes())
    raw[raw.index(np.full(3, 2.0).tobytes()) + 6] ^= 1
    path.write_bytes(raw)
    found = store.load()
    assert int(found["step"]) == 1
    np.testing.assert_array_equal(found["w"], np.ones(100))
    assert f"Passing over a damaged state of a chain: {path}" in capsys.readouterr().out
    path.unlink()  # a kill between two renamings
    assert int(store.load()["step"]) == 1
    before.write_bytes(b"PK")
    assert store.load() is None


def test_a_missing_trajectory_is_one_line(tmp_path):
    store = ChainStore(tmp_path, "nuts", 0, "abc")
    store.record(0, np.zeros((2, 3)))
    (tmp_path / "nuts-chain00-trajectory000000.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"trajectory000000.npy: missing or damaged"):
        store.trajectories(1)


@pytest.mark.parametrize("on_disk", [False, True])
def test_trajectories(tmp_path, on_disk):
    store = ChainStore(tmp_path if on_disk else None, "name", 0, "abc", every=2)
    paths = np.random.default_rng(0).standard_normal((5, 4, 3)).astype(np.float32)
    for i in range(5):
        if store.records(i):
            store.record(i, paths[i])
    np.testing.assert_array_equal(store.trajectories(5), paths[::2])
    assert not store.due or on_disk
    store.record(6, np.full((4, 3), 1e60))  # a divergent one is no error


def test_fingerprints_know_what_a_chain_depends_on():
    problem, _ = linear_problem(3)
    settings = SamplerOptions()
    one = fingerprint(problem, settings)
    free = replace(settings, chains=9)
    assert fingerprint(problem, free) == one
    assert fingerprint(replace(problem, x=problem.x + 1e-9), settings) == one
    for other in (
        fingerprint(problem, replace(settings, seed=1)),
        fingerprint(problem, replace(settings, mcmc_n=1)),
        fingerprint(replace(problem, x=problem.x + 0.01), settings),
        fingerprint(replace(problem, noise_var=0.05), settings),
        fingerprint(replace(problem, concentration=0 * problem.concentration), settings),
    ):
        assert other != one


def test_large_trajectories_are_thinned_more():
    problem, _ = linear_problem(3)
    assert record_every(problem, SamplerOptions(thin=5)) == 5
    many = replace(problem, x=problem.x.new_zeros(20_000, 2))
    settings = SamplerOptions(thin=5)
    every = record_every(many, settings)
    size = 4 * 40_003 * 15 * 2000
    assert every > 5
    assert size / every <= TRAJECTORY_BYTES < size / (every - 1)


def test_kept_draws_are_spread_evenly():
    assert kept(SamplerOptions(mcmc_n=9, keep_z=3)) == [0, 4, 8]
    assert kept(SamplerOptions(mcmc_n=3, keep_z=9)) == [0, 1, 2]
    assert kept(SamplerOptions(mcmc_n=9, keep_z=0)) == []


def test_gather_on_one_process():
    mine = [{"a": np.array([1.0, 2.0])}, {"a": np.array([3.0, 4.0])}]
    np.testing.assert_array_equal(gather(mine, 2)["a"], [[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    "state",
    [
        flow_sampler.State(*(np.arange(k, dtype=t) for k, t in enumerate("dIddd", 2))),
        nuts_sampler.State(torch.ones(3).double(), torch.zeros(3), 0.25, 7.0, 5, 1),
    ],
)
def test_a_state_comes_back_as_it_was(state, tmp_path):
    store = ChainStore(tmp_path, "name", 0, "abc")
    store.save(packed(state))
    found = unpacked(type(state), store.load(), torch.device("cpu"))
    assert type(found) is type(state)
    for a, b in zip(state, found, strict=True):
        assert type(a) is type(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
