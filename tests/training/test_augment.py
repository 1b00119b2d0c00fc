"""Augmentation: what the labels say is what was done, and nothing else is touched."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch

from training.augment import _SYM6, LABELS, AugmentPipe


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


def augmented(pipe, images, rows):
    """Images as a pipe changes them by its draws, and the labels."""
    changes = pipe.changes(rows, images.shape[-2:])
    return changes(images), changes.labels


def test_without_any_operation_images_are_untouched():
    images = torch.randn(8, 3, 16, 16)
    out, labels = augmented(AugmentPipe(), images, draws(8))
    assert torch.equal(out, images)
    assert labels.shape == (8, LABELS)
    assert (labels == 0).all()


def test_flips_are_exact():
    images = torch.randn(4, 3, 16, 16)
    out, labels = augmented(AugmentPipe(), images, draws(4, x=0.1))
    assert torch.equal(out, images.flip(-1))
    assert labels[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]
    out, labels = augmented(AugmentPipe(), images, draws(4, y=0.1, gate_y=0.0))
    assert torch.equal(out, images.flip(-2))
    assert labels[0].tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0]


def test_translation():
    out, labels = augmented(
        AugmentPipe(), disc(1, y=-0.2), draws(gate_shift=0, shift_x=0.6, shift_y=1.2)
    )
    expected = torch.tensor([[0.25 + 2 * 0.125 * 0.6, -0.2 + 2 * 0.125 * 1.2]])
    torch.testing.assert_close(centre(out), expected, atol=0.01, rtol=0)
    torch.testing.assert_close(labels[0, 7:], torch.tensor([0.6, 1.2]))


def test_published_sign_of_rotations():
    """A positive angle turns the picture anticlockwise: numpy's rot90, scipy's rotate."""
    out, labels = augmented(AugmentPipe(), disc(1), draws(gate_turn=0, turn=0.75))  # by pi/2
    torch.testing.assert_close(labels[0, 3:5], torch.tensor([-1.0, 1.0]))
    expected = torch.from_numpy(np.rot90(disc(1)[0, 0].numpy()).copy())
    torch.testing.assert_close(out[0, 0], expected, atol=0.03, rtol=0)
    angle = 0.3
    out, labels = augmented(
        AugmentPipe(), disc(1), draws(gate_turn=0, turn=(angle / math.pi + 1) / 2)
    )
    torch.testing.assert_close(labels[0, 3:5], torch.tensor([math.cos(0.3) - 1, math.sin(0.3)]))
    wanted = scipy.ndimage.rotate(disc(1)[0, 0].numpy(), math.degrees(angle), reshape=False)
    torch.testing.assert_close(out[0, 0], torch.from_numpy(wanted), atol=0.03, rtol=0)


def test_scale():
    out, labels = augmented(AugmentPipe(), disc(1, x=0.3, y=0.3), draws(gate_scale=0, scale=2.0))
    factor = 2 ** (0.2 * 2)
    torch.testing.assert_close(centre(out), torch.full((1, 2), 0.3 * factor), atol=0.01, rtol=0)
    assert float(out.sum()) == pytest.approx(float(disc(1).sum()) * factor**2, rel=0.03)
    assert float(labels[0, 2]) == pytest.approx(2.0)


def test_anisotropy():
    out, labels = augmented(
        AugmentPipe(), disc(1, x=0.3, y=0.3), draws(gate_aniso=0, aniso=1.5, axis_fixed=0.1)
    )
    f = 2 ** (0.2 * 1.5)
    torch.testing.assert_close(centre(out), torch.tensor([[0.3 * f, 0.3 / f]]), atol=0.01, rtol=0)
    torch.testing.assert_close(labels[0, 5:7], torch.tensor([1.5, 0.0]))


def test_published_sign_of_the_anisotropy_axis():
    """An axis of +45 degrees points up and to the right: the picture is longer along it."""
    values = {"gate_aniso": 0, "aniso": 1.5, "axis": (0.25 + 1) / 2}
    image = disc(1, x=0.3, y=-0.3)  # up and to the right
    out, labels = augmented(AugmentPipe(), image, draws(**values))
    torch.testing.assert_close(labels[0, 5:7], torch.full((2,), 1.5 * math.sqrt(0.5)))
    f = 2 ** (0.2 * 1.5)
    torch.testing.assert_close(centre(out), torch.tensor([[0.3 * f, -0.3 * f]]), atol=0.01, rtol=0)


def test_published_order_of_operations():
    """Scale, rotation, anisotropy, translation: the disc goes where their product takes it."""
    values = {"gate_scale": 0, "scale": -0.5, "gate_turn": 0, "turn": 0.6,
              "gate_aniso": 0, "aniso": 1.2, "axis": 0.6, "gate_shift": 0, "shift_x": 0.4,
              "shift_y": -0.3}  # fmt: skip
    out, _ = augmented(AugmentPipe(), disc(1, x=0.3, y=-0.2), draws(**values))

    def turn(angle):  # anticlockwise, y pointing down
        return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    f, angle = 2 ** (0.2 * 1.2), 0.2 * np.pi
    at = turn(angle) @ (2 ** (0.2 * -0.5) * np.array([0.3, -0.2]))
    at = turn(angle) @ np.diag([f, 1 / f]) @ turn(-angle) @ at
    expected = at + 0.25 * np.array([0.4, -0.3])
    np.testing.assert_allclose(centre(out)[0].numpy(), expected, atol=0.01)


def test_the_filter_is_the_wavelet_sym6():
    """Orthonormal to its even shifts, six vanishing moments, the longest symmetric phase."""
    h, k = np.array(_SYM6), np.arange(12)
    for m in range(6):
        product = float(h[2 * m :] @ h[: 12 - 2 * m])
        assert product == pytest.approx(float(m == 0), abs=1e-11)
        assert float(((-1.0) ** k * k**m) @ h) == pytest.approx(0.0, abs=1e-8)
    assert h.sum() == pytest.approx(math.sqrt(2), abs=1e-12)


@pytest.mark.parametrize("operation", ["scale", "turn", "aniso", "shift"])
def test_published_warp_keeps_all_frequencies(operation):
    """A map that moves nothing gives the image itself, one that moves little nearly so."""
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    gate = {f"gate_{operation}": 0}
    still = gate | ({"turn": 0.5} if operation == "turn" else {})  # angle 0
    out, labels = augmented(AugmentPipe(), images, draws(8, **still))
    torch.testing.assert_close(out, images, atol=2e-4, rtol=0)
    assert float(labels.abs().max()) == 0
    little = {"scale": {"scale": 0.003}, "turn": {"turn": 0.5001}, "aniso": {"aniso": 0.003},
              "shift": {"shift_x": 0.002, "shift_y": 0.002}}[operation]  # fmt: skip
    out, labels = augmented(AugmentPipe(), images, draws(8, **gate | little))
    assert float(labels.abs().max()) > 0
    assert float(out.var() / images.var()) == pytest.approx(1.0, abs=0.05)


def test_whole_pixels_are_moved_exactly():
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pixel = 1 / (16 * 0.125)
    out, _ = augmented(
        AugmentPipe(), images, draws(2, gate_shift=0, shift_x=3 * pixel, shift_y=-2 * pixel)
    )
    torch.testing.assert_close(out[..., :-2, 3:], images[..., 2:, :-3], atol=2e-4, rtol=0)


def test_frequencies_and_reproducibility():
    pipe = AugmentPipe(p=0.12)
    rows = pipe.draws(0, 0, 20000)
    assert torch.equal(pipe.draws(0, 700, 1900), rows[700:1900])
    assert not torch.equal(pipe.draws(1, 0, 100), rows[:100])
    _, labels = augmented(pipe, torch.zeros(20000, 1, 2, 2), rows)
    often = (labels != 0).double().mean(0)
    expected = [0.5, 0.06, 0.12, 0.12, 0.12, 0.12, 0.06, 0.12, 0.12]
    torch.testing.assert_close(often, torch.tensor(expected).double(), atol=0.01, rtol=0)


def test_a_sample_does_not_depend_on_its_batch():
    pipe = AugmentPipe(p=1.0)
    rows = pipe.draws(0, 0, 16)
    images = torch.randn(16, 3, 8, 8)
    whole, labels = augmented(pipe, images, rows)
    for i in (0, 7, 15):
        one, label = augmented(pipe, images[i : i + 1], rows[i : i + 1])
        torch.testing.assert_close(one[0], whole[i], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(label[0], labels[i])
