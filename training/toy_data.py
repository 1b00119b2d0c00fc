r"""Toy data: the named sets of the paper, their embeddings, and the exact mixtures behind two.

Every set is centred and scaled by constants, so that each has unit variance: circles and sine2 and
moons on average over their dimensions or in each, s_curve and swirl in each; the `alt_` sets have a
Gaussian thickness of sd 0.5 instead. Sample i of a seed is the same whatever the batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_utils import distributed
from training import seeding

Draw = Callable[[int, np.random.Generator], np.ndarray]
BASIS_SAMPLES = 2**18
CIRCLE_RADII = (1.0, 0.5)
CIRCLE_NOISE = 0.05
CIRCLE_SD = float(np.sqrt(np.mean(np.square(CIRCLE_RADII)) / 2 + CIRCLE_NOISE**2))
GMM1D = {"weights": (0.3, 0.45, 0.25), "means": (-1.5, 0.1, 1.6), "sds": (0.3, 0.2, 0.4)}


def _circles(n: int, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi, n)
    radius = rng.choice(CIRCLE_RADII, n)
    ring = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return (ring + CIRCLE_NOISE * rng.standard_normal((n, 2))) / CIRCLE_SD


def _sine2(n: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.uniform(-np.pi, np.pi, n)
    curve = np.stack([x / (np.pi / np.sqrt(3)), np.sin(2 * x) * np.sqrt(2)], 1)
    return np.sqrt(1 - 0.08**2) * curve + 0.08 * rng.standard_normal((n, 2))


def _moons(n: int, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, np.pi, n)
    upper = rng.integers(0, 2, n)[:, None] == 1
    arc = np.stack([np.cos(angle), np.sin(angle)], 1)
    points = np.where(upper, arc, np.array([1.0, 0.5]) - arc)
    points = points + 0.05 * rng.standard_normal((n, 2)) - np.array([0.5, 0.25])
    sd = np.sqrt([0.75 + 0.05**2, 0.5 + 1 / 16 - 1 / np.pi + 0.05**2])
    return points / sd


def _s_curve(n: int, rng: np.random.Generator) -> np.ndarray:
    t = 3 * np.pi * (rng.uniform(size=n) - 0.5)
    width = rng.uniform(-1, 1, n) * np.sqrt(3)
    x = np.sin(t) / np.sqrt(0.5)
    z = np.sign(t) * (np.cos(t) - 1) / np.sqrt(1.5 + 4 / (3 * np.pi))
    curve = np.stack([x, width, z], 1)
    return np.sqrt(1 - 0.05**2) * curve + 0.05 * rng.standard_normal((n, 3))


def _swirl(n: int, rng: np.random.Generator) -> np.ndarray:
    t = 1.5 * np.pi * (1 + 2 * rng.uniform(size=n))
    width = rng.uniform(-1, 1, n) * np.sqrt(3)
    flat = np.stack([t * np.cos(t), t * np.sin(t)], 1) - _SWIRL_MEAN
    curve = np.stack([flat[:, 0] / _SWIRL_SD[0], width, flat[:, 1] / _SWIRL_SD[1]], 1)
    return np.sqrt(1 - 0.05**2) * curve + 0.05 * rng.standard_normal((n, 3))


def _swirl_moments() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(64)
    t = 1.5 * np.pi * (2 + nodes)
    flat = np.stack([t * np.cos(t), t * np.sin(t)], 1)
    mean = weights @ flat / 2
    return mean, np.sqrt(weights @ (flat - mean) ** 2 / 2)


_SWIRL_MEAN, _SWIRL_SD = _swirl_moments()


def _alternative(draw: Draw) -> Draw:
    def drawn(n: int, rng: np.random.Generator) -> np.ndarray:
        points = draw(n, rng)
        points[:, 1] = 0.5 * rng.standard_normal(n)
        return points

    return drawn


def _gmm1d(n: int, rng: np.random.Generator) -> np.ndarray:
    k = rng.choice(3, n, p=GMM1D["weights"])
    noise = rng.standard_normal(n)
    return (np.array(GMM1D["means"])[k] + np.array(GMM1D["sds"])[k] * noise)[:, None]


TOY_SETS: dict[str, tuple[int, Draw]] = {
    "circles": (2, _circles),
    "sine2": (2, _sine2),
    "moons": (2, _moons),
    "s_curve": (3, _s_curve),
    "swirl": (3, _swirl),
    "alt_s_curve": (3, _alternative(_s_curve)),
    "alt_swirl": (3, _alternative(_swirl)),
    "gmm1d": (1, _gmm1d),
}


def orthonormal_projection(n: int, d: int, seed: int = 42) -> np.ndarray:
    """Orthonormal columns that embed d dimensions into n (paper, C.2.2), float64 [n, d].

    Gram-Schmidt on columns of NumPy's legacy normal generator, as published.
    """
    columns = np.random.RandomState(seed).randn(n, d)
    for j in range(d):
        for i in range(j):
            columns[:, j] -= columns[:, i] * (columns[:, i] @ columns[:, j])
        columns[:, j] /= np.linalg.norm(columns[:, j])
    return columns


@dataclass(frozen=True)
class ToySource:
    """An endless stream of a named toy set, optionally embedded into more dimensions.

    Attributes:
        name: a key of `TOY_SETS`.
        augment_to: dimensions to embed into; None for the set's own.
        embedding: "orthonormal" (y = P x) or "signed_square" (z = sign(y) y^2 plus noise).
        embedding_noise: sd of the noise of "signed_square" (the paper: 0.2 or 0.5).
    """

    name: str
    augment_to: int | None = None
    embedding: str = "orthonormal"
    embedding_noise: float = 0.2

    def __post_init__(self):
        if self.name not in TOY_SETS:
            raise ValueError(f"--data_name={self.name}: known sets are {', '.join(TOY_SETS)}")
        own = TOY_SETS[self.name][0]
        if self.augment_to is not None and self.augment_to < own:
            raise ValueError(
                f"--augment_to={self.augment_to} is less than the {own} dimensions of {self.name}"
            )

    @property
    def dim(self) -> int:
        """Dimensions of a sample, d."""
        return self.augment_to or TOY_SETS[self.name][0]

    @property
    def scale(self) -> Tensor:
        """Units of the columns: toy sets are used as they are."""
        return torch.ones(self.dim, dtype=torch.float64)

    def samples(self, seed: int, start: int, stop: int, purpose: str = "data") -> Tensor:
        """Samples start..stop of a seed's stream, float64 [stop - start, d].

        Args:
            seed: seed of the stream.
            start, stop: range of samples.
            purpose: name of the stream; "training" is what networks are trained on.
        """
        draw = TOY_SETS[self.name][1]
        x = seeding.rows(draw, seed, f"{self.name}:{purpose}", start, stop)
        if self.augment_to is not None:
            x = x @ orthonormal_projection(self.dim, x.shape[1]).T
            if self.embedding == "signed_square":
                noise = seeding.normals(seed, f"embedding:{purpose}", start, stop, self.dim)
                x = np.sign(x) * x**2 + self.embedding_noise * noise
        return torch.from_numpy(x)

    def basis_batches(self) -> Iterator[Tensor]:
        """This rank's share of the samples that the eigenbasis is computed from."""
        for block in distributed.share(BASIS_SAMPLES, 2**14):
            yield self.samples(0, block.start, block.stop, purpose="basis")

    def description(self) -> dict:
        """What the network file says about its data."""
        described: dict = {"kind": "toy", "name": self.name, "dim": self.dim}
        if self.augment_to is not None:
            described |= {
                "augment_to": self.augment_to,
                "embedding": self.embedding,
                "embedding_noise": self.embedding_noise,
            }
        return described | {"sha256": self.content_hash()}

    def content_hash(self) -> str:
        """SHA-256 of the set's name, parameters, and some samples: of its definition."""
        some = self.samples(0, 0, 64, "identity").numpy().round(6) + 0.0  # -0 is 0
        named = json.dumps([self.name, self.augment_to, self.embedding, self.embedding_noise])
        return hashlib.sha256(named.encode() + some.astype("<f8").tobytes()).hexdigest()


def exact_mixture(name: str, points: int = 192) -> dict[str, Any]:
    """The Gaussian mixture that a toy set is: arguments of `mixture.MixtureField`.

    The circles are mixtures over their rings; `points` equally spaced centres a ring reproduce
    them to rounding error, because the spacing is far below the noise.

    Raises:
        KeyError: for a set that is no mixture of Gaussians.
    """
    if name == "circles":
        angle = torch.arange(points, dtype=torch.float64) * (2 * np.pi / points)
        ring = torch.stack([angle.cos(), angle.sin()], 1)
        means = torch.cat([r * ring for r in CIRCLE_RADII]) / CIRCLE_SD
        variance = torch.tensor((CIRCLE_NOISE / CIRCLE_SD) ** 2, dtype=torch.float64)
        return {"means": means, "covariance": variance}
    if name == "gmm1d":
        variances = torch.tensor(GMM1D["sds"], dtype=torch.float64) ** 2
        return {
            "means": torch.tensor(GMM1D["means"], dtype=torch.float64)[:, None],
            "covariance": variances[:, None, None],
            "weights": torch.tensor(GMM1D["weights"], dtype=torch.float64),
        }
    raise KeyError(f"{name} is no mixture of Gaussians")
