"""Latents of generation: Gaussian or lent, by seed and position alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flow.latents import (
    Donors,
    class_labels,
    class_number,
    drawn_of,
    random_classes,
    seed_latents,
)
from tests.helpers import three_blobs


def test_a_seed_has_one_latent():
    flow, _ = three_blobs(3, 2)
    many = seed_latents(flow, range(5, 9), 0.3, None)
    torch.testing.assert_close(many[2:3], seed_latents(flow, range(7, 8), 0.3, None))
    torch.testing.assert_close(many[2:3], flow.latents(1, 7, eps=0.3))
    assert not torch.equal(many[2], many[3])


def test_lent_latents():
    """Kept dimensions stay Gaussian; compressed ones come together from one donor, any alike."""
    flow, _ = three_blobs(3, 1)
    rows = torch.arange(30).reshape(10, 3).double()
    donors = Donors(rows, np.arange(10) % 2)
    u = flow.latents(4000, 0)
    picks = donors.picks(0, 0, 4000)
    lent = donors.lend(flow, u, picks)
    assert torch.equal(lent[:, :1], u[:, :1])
    assert torch.equal(lent[:, 1:], rows[picks][:, 1:])
    counts = np.bincount(picks, minlength=10)
    assert abs(counts - 400).max() < 5 * np.sqrt(400)
    np.testing.assert_array_equal(donors.picks(0, 1500, 1600), picks[1500:1600])
    seeds = seed_latents(flow, range(3), None, donors)
    assert torch.equal(seeds[1:2], seed_latents(flow, range(1, 2), None, donors))
    assert seeds[0, 1:].tolist() in rows[:, 1:].tolist()


def test_donors_of_a_class():
    donors = Donors(torch.arange(4).double()[:, None], np.array([0, 1, 1, 0]))
    assert donors.of_class(1).rows[:, 0].tolist() == [1, 2]
    assert donors.of_class(None) is donors
    with pytest.raises(ValueError, match="no sample of this class"):
        donors.of_class(5)


def test_random_classes():
    classes = random_classes(0, 0, 3000, 3)
    np.testing.assert_array_equal(random_classes(0, 1000, 1100, 3), classes[1000:1100])
    assert abs(np.bincount(classes) - 1000).max() < 5 * np.sqrt(1000)


def test_classes_of_a_network():
    """What the data called them, which have images; a file that does not say is 0, 1, ..."""

    def network(**data):
        model = SimpleNamespace(model=SimpleNamespace(label_dim=3))
        return SimpleNamespace(model=model, info={"data": data})

    flow = network(class_labels=[1, 4, 7], class_images=[5, 0, 2])
    assert class_labels(flow).tolist() == [1, 4, 7]
    assert drawn_of(flow).tolist() == [0, 2]
    assert [class_number(flow, k) for k in (None, 1, 7)] == [None, 0, 2]
    with pytest.raises(ValueError, match="--class=2: the network's classes are 1, 4, 7"):
        class_number(flow, 2)
    for data in ({}, {"class_labels": [1, 2]}, {"class_labels": [3, 2, 1]}, {"class_labels": "abc"},
                 {"class_labels": [1.5, 2, 3], "class_images": [0, 0, 0]}):  # fmt: skip
        assert class_labels(network(**data)).tolist() == [0, 1, 2]
        assert drawn_of(network(**data)).tolist() == [0, 1, 2]
