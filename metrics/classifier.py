"""A small image classifier, trained in seconds, whose features judge generated images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import trange

from torch_utils import seeding

FEATURES = 32
BATCH = 64
CHUNK = 1024  # images at a time outside training


class Classifier(nn.Module):
    """Three convolutions and a layer of features, for images of 8x8 pixels and up.

    Args:
        shape: of an image, (C, H, W).
        classes: number of classes.
        width: channels of the first convolution; the others have twice as many.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 32):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(8 * width, FEATURES),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.25), nn.Linear(FEATURES, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, classes] of images in [-1, 1], [n, C, H, W]."""
        return self.head(self.body(x))


@dataclass
class Judgement:
    """What a classifier says about images.

    Attributes:
        features: outputs of the last layer but one, before its rectifier, [n, FEATURES].
        confidence: largest softmax probability of each image, [n].
        predicted: most likely class of each image, [n].
    """

    features: Tensor
    confidence: Tensor
    predicted: Tensor


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split images so that each class is held out in the same share.

    Args:
        labels: class of each image, [n].
        share: of each class to hold out; at least one image of each.
        seed: of the choice.

    Returns:
        positions of the training and of the held-out images, ascending.
    """
    held: list[int] = []
    for k in np.unique(labels):
        own = np.flatnonzero(labels == k)
        mixed = seeding.generator(seed, "hold out", int(k)).permutation(own)
        held.extend(mixed[: max(1, round(share * len(own)))])
    return np.setdiff1d(np.arange(len(labels)), held), np.sort(held)


def train(images: Tensor, labels: Tensor, classes: int, epochs: int, seed: int) -> Classifier:
    """A classifier trained with Adam, on images shifted at random by up to a pixel.

    The same arguments give the same classifier; the library's own random state is left alone.

    Args:
        images: in [-1, 1], float32 [n, C, H, W].
        labels: classes, [n].
        classes: number of classes.
        epochs: passes over the images.
        seed: of the weights, the order, the shifts and dropout.
    """
    steps = epochs * -(-len(images) // BATCH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.integer(seed, "classifier"))
        model = Classifier(tuple(images.shape[1:]), classes).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for step in trange(steps, desc="classifier", disable=None):
            picks = seeding.epochs(seed, step * BATCH, (step + 1) * BATCH, len(images))
            x = _shifted(images[torch.from_numpy(picks)], seeding.generator(seed, "shift", step))
            loss = nn.functional.cross_entropy(model(x), labels[torch.from_numpy(picks)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    return model.eval()


def _shifted(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Each image moved by -1, 0 or 1 pixels both ways; its edge pixels are repeated."""
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    h, w = x.shape[2:]
    moves = rng.integers(0, 3, (len(x), 2))
    return torch.stack(
        [p[:, i : i + h, j : j + w] for p, (i, j) in zip(padded, moves, strict=True)]
    )


@torch.no_grad()
def judge(model: Classifier, images: Tensor) -> Judgement:
    """Features, confidences and classes of images in [-1, 1], [n, C, H, W]."""
    features = torch.cat([model.body(x) for x in images.split(CHUNK)])
    confidence, predicted = model.head(features).softmax(1).max(1)
    return Judgement(features, confidence, predicted)
