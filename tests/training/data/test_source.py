"""Every source is a whole `Source`: nobody has to ask what it lacks."""

import numpy as np
import pytest
import torch

from tests.image_fixtures import pixels, png, write_folder
from training.data.images import ImageSource
from training.data.source import Source
from training.data.toys import ToySource
from training.data.vectors import VectorSource

NAMES = [*Source.__annotations__, *(n for n in vars(Source) if not n.startswith("_"))]


def toys(_):
    return ToySource("circles", augment_to=3)


def vectors(folder):
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((20, 3)))
    return VectorSource(folder / "x.npy")


def images(folder):
    files = {f"{i % 2}/{i}.png": png(x) for i, x in enumerate(pixels(20, 4, 3))}
    return ImageSource(write_folder(folder / "set", files), use_labels=True, xflip=True)


@pytest.mark.parametrize("make", [toys, vectors, images])
def test_sources_have_all_of_the_protocol(make, tmp_path):
    source = make(tmp_path)
    assert len(NAMES) >= 10
    assert not [name for name in NAMES if not hasattr(source, name)]
    x, labels = source.samples(0, 3, 8), source.labels(0, 3, 8)
    assert x.shape == (5, source.dim)
    assert source.scale.shape == (source.dim,)
    assert source.count in (None, 20, 40)
    assert (labels is None) == (source.classes == 0)
    assert source.shape is None or x.unflatten(1, source.shape).shape == (5, *source.shape)
    if make is not toys:
        assert sum(len(b) for b in source.basis_batches()) == source.count
    assert source.description()["sha256"] == source.content_hash()
    assert torch.equal(source.samples(0, 3, 8, "training"), source.samples(0, 3, 8, "training"))
