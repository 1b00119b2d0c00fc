"""Augmentation: what the labels say is what was done, and nothing else is touched."""

import math

import pytest
import torch

from training.augment import LABELS, AugmentPipe


def disc(n, size=32, x=0.25, y=-0.5):
    """n images of one bright disc at (x, y) of [-1, 1]^2."""
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    square = (at[None, :] - x) ** 2 + (at[:, None] - y) ** 2
    return torch.exp(-square / 0.01).expand(n, 1, size, size).clone()


def centre(images):
    """Centre of mass (x, y) of each image in [-1, 1]^2, [n, 2]."""
    size = images.shape[-1]
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    mass = images.sum((1, 2, 3))
    x = (images.sum((1, 2)) * at).sum(1) / mass
    y = (images.sum((1, 3)) * at).sum(1) / mass
    return torch.stack([x, y], 1)


def draws(n=1, **values):
    """Draws that trigger nothing but what is named."""
    names = ["gate0", "gate_y", "gate_scale", "gate_turn", "gate_aniso", "gate_shift", "x", "y",
             "turn", "axis", "axis_fixed", "scale", "aniso", "shift_x", "shift_y"]  # fmt: skip
    row = torch.full((len(names),), 0.9).double()
    row[-4:] = 0
    for name, value in values.items():
        row[names.index(name)] = value
    return row.expand(n, -1)


def test_without_any_operation_images_are_untouched():
    images = torch.randn(8, 3, 16, 16)
    out, labels = AugmentPipe()(images, draws(8))
    assert torch.equal(out, images)
    assert labels.shape == (8, LABELS)
    assert (labels == 0).all()


def test_flips_are_exact():
    images = torch.randn(4, 3, 16, 16)
    out, labels = AugmentPipe()(images, draws(4, x=0.1))
    assert torch.equal(out, images.flip(-1))
    assert labels[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]
    out, labels = AugmentPipe()(images, draws(4, y=0.1, gate_y=0.0))
    assert torch.equal(out, images.flip(-2))
    assert labels[0].tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0]


def test_translation():
    out, labels = AugmentPipe()(disc(1), draws(gate_shift=0, shift_x=0.6, shift_y=1.2))
    expected = torch.tensor([[0.25 + 2 * 0.125 * 0.6, -0.5 + 2 * 0.125 * 1.2]])
    torch.testing.assert_close(centre(out), expected, atol=0.01, rtol=0)
    torch.testing.assert_close(labels[0, 7:], torch.tensor([0.6, 1.2]))


def test_rotation():
    out, labels = AugmentPipe()(disc(1), draws(gate_turn=0, turn=0.75))  # by pi/2
    torch.testing.assert_close(centre(out), torch.tensor([[0.5, 0.25]]), atol=0.01, rtol=0)
    torch.testing.assert_close(labels[0, 3:5], torch.tensor([-1.0, 1.0]))


def test_scale():
    out, labels = AugmentPipe()(disc(1, x=0.3, y=0.3), draws(gate_scale=0, scale=2.0))
    factor = 2 ** (0.2 * 2)
    torch.testing.assert_close(centre(out), torch.full((1, 2), 0.3 * factor), atol=0.01, rtol=0)
    assert float(out.sum()) == pytest.approx(float(disc(1).sum()) * factor**2, rel=0.03)
    assert float(labels[0, 2]) == pytest.approx(2.0)


def test_anisotropy():
    out, labels = AugmentPipe()(
        disc(1, x=0.3, y=0.3), draws(gate_aniso=0, aniso=1.5, axis_fixed=0.1)
    )
    f = 2 ** (0.2 * 1.5)
    torch.testing.assert_close(centre(out), torch.tensor([[0.3 * f, 0.3 / f]]), atol=0.01, rtol=0)
    torch.testing.assert_close(labels[0, 5:7], torch.tensor([1.5, 0.0]))
    _, labels = AugmentPipe()(disc(1), draws(gate_aniso=0, aniso=1.5, axis=0.75))
    torch.testing.assert_close(
        labels[0, 5:7], 1.5 * torch.tensor([math.cos(math.pi / 2), 1.0]), atol=1e-6, rtol=0
    )


def test_frequencies_and_reproducibility():
    pipe = AugmentPipe(p=0.12)
    rows = pipe.draws(0, 0, 20000)
    assert torch.equal(pipe.draws(0, 700, 1900), rows[700:1900])
    assert not torch.equal(pipe.draws(1, 0, 100), rows[:100])
    _, labels = pipe(torch.zeros(20000, 1, 2, 2), rows)
    often = (labels != 0).double().mean(0)
    expected = [0.5, 0.06, 0.12, 0.12, 0.12, 0.12, 0.06, 0.12, 0.12]
    torch.testing.assert_close(often, torch.tensor(expected).double(), atol=0.01, rtol=0)


def test_a_sample_does_not_depend_on_its_batch():
    pipe = AugmentPipe(p=1.0)
    rows = pipe.draws(0, 0, 16)
    images = torch.randn(16, 3, 8, 8)
    whole, labels = pipe(images, rows)
    for i in (0, 7, 15):
        one, label = pipe(images[i : i + 1], rows[i : i + 1])
        torch.testing.assert_close(one[0], whole[i], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(label[0], labels[i])
