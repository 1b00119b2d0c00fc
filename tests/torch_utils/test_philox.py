"""The generator by seed, purpose and place: NumPy's words on every device, and no others."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from torch_utils import philox

KINDS = [philox.words, philox.uniforms, philox.normals, philox.signs]


def test_known_answer():
    """The vector of the generator's authors (Random123, kat_vectors) for counter and key zero."""
    words = philox.torch_words((0, 0), 0, 1, philox.CPU)
    expected = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert [int(w) % 2**64 for w in words] == expected


@pytest.mark.parametrize("first", [0, 1, 12_345, 2**40 + 7])
def test_torchs_words_are_numpys(first):
    """Integer operations of torch, which run on any device, against NumPy's generator."""
    key = philox.key(7, "noise")
    theirs = np.random.Philox(key=np.array(key, np.uint64), counter=(first - 1) % 2**256)
    raw = theirs.random_raw(400)
    ours = philox.torch_words(key, first, 100, philox.CPU)
    assert np.array_equal(ours.numpy().view(np.uint64), raw)


@pytest.mark.parametrize("draw", KINDS)
@pytest.mark.parametrize("width", [1, 2, 7, 64, 100])
def test_any_rows_are_those_of_the_whole(draw, width):
    whole = draw(3, "noise", 0, 40, width)
    assert whole.shape == (40, width)
    for start, stop in ((0, 1), (5, 6), (3, 17), (39, 40)):
        assert torch.equal(draw(3, "noise", start, stop, width), whole[start:stop])
    assert not torch.equal(draw(4, "noise", 0, 40, width), whole)
    assert not torch.equal(draw(3, "probe", 0, 40, width), whole)


def on_a_device(monkeypatch):
    """Draw on the CPU as on a GPU: by operations of torch."""

    def raw(key, first, counters, device):
        return philox.torch_words(key, first, counters, device)

    monkeypatch.setattr(philox, "_raw", raw)
    monkeypatch.setattr(philox, "_unit", lambda *where: philox.to_unit(raw(*where)))


@pytest.mark.parametrize("draw", KINDS)
def test_devices_agree(draw, monkeypatch):
    ours = draw(5, "noise", 11, 90, 13)
    on_a_device(monkeypatch)
    assert torch.equal(draw(5, "noise", 11, 90, 13), ours)


def test_normal_numbers_are_right_to_some_units_in_the_last_place():
    """Devices round what enters the elementary functions alike, and have these right to some."""
    halves = philox.words(0, "n", 0, 100_000, 1).view(torch.int32)
    share = ((halves[:, 0] & (2**31 - 1)).float() + 0.5) * 2.0**-31
    angle = (halves[:, 1].float() * (math.pi * 2.0**-31)).double()
    radius = (-2 * share.double().log()).sqrt()
    exact = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    miss = philox.normals(0, "n", 0, 100_000, 2).double() - exact
    assert float((miss.abs() / radius.clamp(min=1e-9)[:, None]).max()) < 4 * 2**-24


def test_statistics():
    """Distribution, tails, and no correlation between places, rows, seeds and purposes."""
    n = 200_000
    x = philox.normals(0, "noise", 0, n, 1)[:, 0].double().numpy()
    assert scipy.stats.kstest(x, "norm").pvalue > 1e-3
    assert scipy.stats.kstest(1.03 * x, "norm").pvalue < 1e-3  # which such a sample can tell
    assert scipy.stats.kstest(philox.uniforms(0, "u", 0, n, 1)[:, 0], "uniform").pvalue > 1e-3
    beyond = (np.abs(x) > 4).sum()
    assert abs(beyond - n * 6.334e-5) < 4 * math.sqrt(n * 6.334e-5)
    others = [np.roll(x, k) for k in (1, 2, 3, 4, 8, 64)]
    others += [philox.normals(s, p, 0, n, 1)[:, 0].numpy() for s, p in ((1, "noise"), (0, "probe"))]
    others += [philox.signs(0, "noise", 0, n, 1)[:, 0].numpy(), x * x]
    for other in others:
        assert abs(np.corrcoef(x, other)[0, 1]) * math.sqrt(n) < 4.5
    assert abs(np.corrcoef(x, x + 100 * others[-2])[0, 1]) * math.sqrt(n) > 4.5  # 1 % is seen


def test_signs_are_fair_and_independent():
    signs = philox.signs(0, "probe", 0, 4000, 130)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    correlation = (signs.T @ signs / len(signs)).fill_diagonal_(0)
    assert float(correlation.abs().max()) * math.sqrt(4000) < 5.5
    assert float(signs.mean(0).abs().max()) * math.sqrt(4000) < 4.5


def test_order():
    first, second = (philox.order(0, "strata", k, 1000) for k in (0, 1000))
    assert sorted(first) == sorted(second) == list(range(1000))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.15
    assert len(philox.order(0, "strata", 0, 1)) == 1
