"""Pictures are written whole, in every dimension."""

import json

import numpy as np
import pytest
from PIL import Image

from dnnlib import plot

STATES = {d: np.random.default_rng(d).standard_normal((9, 200, d)) for d in (1, 2, 3, 5)}


@pytest.mark.parametrize("d", STATES)
def test_pictures(tmp_path, d):
    states, times = STATES[d], np.linspace(0, 7, 9)
    colour = plot.hues(states[0])
    assert colour.shape == (200,)
    assert (colour >= 0).all()
    assert (colour <= 1).all()
    plot.panels(tmp_path / "p.png", {"a": (states[0], colour), "b": (states[1], None)}, "t")
    plot.strip(tmp_path / "s.png", states, times, colour, "t")
    plot.animate(tmp_path / "a.gif", states, times, colour, "t")
    for name in ("p.png", "s.png"):
        with Image.open(tmp_path / name) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert min(pixels.shape[:2]) > 150
        assert pixels.std() > 5
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 16  # there and back
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "p.png", "s.png"]


def test_one_scale_for_all_axes_unless_their_units_differ():
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((5000, 3)) * [1.0, 1.0, 0.01]
    low, high = plot.limits_of(latents).T
    assert np.array_equal(low, -high)
    assert len(set(high.tolist())) == 1  # a compressed dimension is seen to be one
    table = np.array([13.0, 750.0, 1e5]) + rng.standard_normal((5000, 3)) * [0.8, 300.0, 2.0]
    assert np.array_equal(plot.limits_of(table, own=None), plot.limits_of(table, own=True))
    low, high = plot.limits_of(table, own=True).T
    inside = (table > low) & (table < high)
    assert (inside.mean(0) > 0.998).all()
    assert (np.ptp(table, axis=0) > 0.8 * (high - low)).all()  # no column is a line


def test_loss_curve_from_stats(tmp_path):
    lines = [json.dumps({"kimg": k, "loss": 1 / (k + 1)}) for k in range(9)]
    (tmp_path / "stats.jsonl").write_text("\n".join(lines) + "\n")
    plot.plot_loss(tmp_path / "stats.jsonl", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000
