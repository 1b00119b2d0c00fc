r"""Toy data: the named sets of the paper, their embeddings, and the exact mixtures behind two.

The sets of published names are the published ones: curves with Gaussian noise, each column scaled
to mean 0 and sd 1; the `alt_` sets are not scaled, and have a Gaussian thickness of sd 0.5 instead
of a width. `_sharp` sets have less noise, and structure that is finer. Means and sds are those of
the distribution, in closed form, not of a sample. Sample i of a seed is the same in any batch.
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

from torch_utils import distributed, seeding
from training.data.source import Source

Draw = Callable[[int, np.random.Generator], np.ndarray]
BASIS_SAMPLES = 2**18
# Of what the names mean. Networks of definition 1 were trained on the sharp sets, by these names.
DEFINITION = 2
CIRCLE_RADII = (1.0, 0.5)
CIRCLE_NOISE = {"circles": 0.08, "circles_sharp": 0.05}  # sd, before scaling
GMM1D = {"weights": (0.3, 0.45, 0.25), "means": (-1.5, 0.1, 1.6), "sds": (0.3, 0.2, 0.4)}


@dataclass(frozen=True)
class Curve:
    """A distribution on curves or surfaces.

    Attributes:
        draw: its points, [n, d].
        mean: of each column, [d].
        variance: of each column, [d].
    """

    draw: Draw
    mean: tuple[float, ...]
    variance: tuple[float, ...]

    def noisy(self, noise: float | np.ndarray, scaled: bool = True) -> Draw:
        """The set with Gaussian noise of an sd, or one for each column [d]; standardised or not."""
        noise = np.broadcast_to(noise, len(self.mean))
        mean, sd = np.array(self.mean), np.sqrt(np.array(self.variance) + noise**2)

        def drawn(n: int, rng: np.random.Generator) -> np.ndarray:
            points = self.draw(n, rng) + noise * rng.standard_normal((n, len(noise)))
            return (points - mean) / sd if scaled else points

        return drawn

    def sharp(self, noise: float) -> Draw:
        """The standardised set whose noise has an sd of `noise` in each column after scaling."""
        return self.noisy(noise * np.sqrt(np.array(self.variance) / (1 - noise**2)))


def _even(n: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform numbers in (0, 1), [n], of which each nth part holds one, in random order.

    scikit-learn spaces the points of its circles and moons evenly; so does a block of a stream.
    """
    return (rng.permutation(n) + rng.random(n)) / n


def _two_curves(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """On which of two curves n samples lie, bool [n, 1], and where on it, [n, 1] in (0, 1).

    Each pair of neighbours has one of each, in random order: any even stretch of a stream has two
    equal halves, as the published sets do, and no position tells the curve.
    """
    first = rng.integers(0, 2, n // 2) == 1
    where = [_even(n // 2, rng), _even(n // 2, rng)]
    pairs = np.stack([first, ~first], 1)
    return pairs.reshape(n, 1), np.where(pairs, *(w[:, None] for w in where)).reshape(n, 1)


def _arc(angle: np.ndarray) -> np.ndarray:
    return np.concatenate([np.cos(angle), np.sin(angle)], 1)


def _rings(n: int, rng: np.random.Generator) -> np.ndarray:
    outer, q = _two_curves(n, rng)
    return np.where(outer, *CIRCLE_RADII) * _arc(2 * np.pi * q)


def _crescents(n: int, rng: np.random.Generator) -> np.ndarray:
    upper, q = _two_curves(n, rng)
    return np.where(upper, _arc(np.pi * q), np.array([1.0, 0.5]) - _arc(np.pi * q))


def _wave(length: float, frequency: float, amplitude: float) -> Curve:
    def drawn(n: int, rng: np.random.Generator) -> np.ndarray:
        x = length * (2 * _even(n, rng) - 1)
        return np.stack([x, amplitude * np.sin(frequency * x)], 1)

    return Curve(drawn, (0.0, 0.0), (length**2 / 3, amplitude**2 / 2))  # of whole periods


def _letter_s(n: int, rng: np.random.Generator) -> np.ndarray:
    t = 3 * np.pi * (_even(n, rng) - 0.5)
    return np.stack([np.sin(t), 2 * _even(n, rng), np.sign(t) * (np.cos(t) - 1)], 1)


def _roll(n: int, rng: np.random.Generator) -> np.ndarray:
    t = 1.5 * np.pi * (1 + 2 * _even(n, rng))
    return np.stack([t * np.cos(t), 21 * _even(n, rng), t * np.sin(t)], 1)


def _thick(draw: Draw) -> Draw:
    def drawn(n: int, rng: np.random.Generator) -> np.ndarray:
        points = draw(n, rng)
        points[:, 1] = 0.5 * rng.standard_normal(n)
        return points

    return drawn


def _gmm1d(n: int, rng: np.random.Generator) -> np.ndarray:
    k = rng.choice(3, n, p=GMM1D["weights"])
    noise = rng.standard_normal(n)
    return (np.array(GMM1D["means"])[k] + np.array(GMM1D["sds"])[k] * noise)[:, None]


RINGS = Curve(_rings, (0.0, 0.0), (sum(r * r for r in CIRCLE_RADII) / 4,) * 2)
CRESCENTS = Curve(_crescents, (0.5, 0.25), (0.75, 0.5625 - 1 / np.pi))
LETTER_S = Curve(_letter_s, (0.0, 1.0, 0.0), (0.5, 1 / 3, 1.5 + 4 / (3 * np.pi)))
_T2 = 9.75 * np.pi**2  # E t^2 of the roll
ROLL = Curve(
    _roll, (2.0, 10.5, 2 / (3 * np.pi)),
    (_T2 / 2 - 0.25 - 4, 36.75, _T2 / 2 + 0.25 - 4 / (9 * np.pi**2)),
)  # fmt: skip
TOY_SETS: dict[str, tuple[int, Draw]] = {
    "circles": (2, RINGS.noisy(CIRCLE_NOISE["circles"])),
    "sine2": (2, _wave(1.0, 4 * np.pi, 0.25).noisy(np.array([0.0, 0.15]))),
    "moons": (2, CRESCENTS.noisy(0.08)),
    "s_curve": (3, LETTER_S.noisy(0.2)),
    "swirl": (3, ROLL.noisy(1.25)),
    "alt_s_curve": (3, _thick(LETTER_S.noisy(0.2, scaled=False))),
    "alt_swirl": (3, _thick(ROLL.noisy(1.25, scaled=False))),
    "gmm1d": (1, _gmm1d),
    "circles_sharp": (2, RINGS.noisy(CIRCLE_NOISE["circles_sharp"])),
    "sine2_sharp": (2, _wave(np.pi, 2.0, 1.0).sharp(0.08)),
    "moons_sharp": (2, CRESCENTS.noisy(0.05)),
    "s_curve_sharp": (3, LETTER_S.sharp(0.05)),
    "swirl_sharp": (3, ROLL.sharp(0.05)),
    "alt_s_curve_sharp": (3, _thick(LETTER_S.sharp(0.05))),
    "alt_swirl_sharp": (3, _thick(ROLL.sharp(0.05))),
}


def own_dimensions(name: str | None) -> int | None:
    """Dimensions of a set before it is embedded; None for an unknown one."""
    return TOY_SETS[name][0] if name in TOY_SETS else None


def trained_on(info: dict[str, Any]) -> str | None:
    """The set that a network was trained on, by today's names; None if its `info` does not say."""
    data = info.get("data", {})
    name, ours = data.get("name"), "origin" not in info and data.get("kind") == "toy"
    if ours and data.get("definition", 1) < DEFINITION and f"{name}_sharp" in TOY_SETS:
        return f"{name}_sharp"
    return name


def circle_scale(name: str) -> float:
    """What radii and noise of a set of circles are divided by: the sd of its columns."""
    return float(np.sqrt(RINGS.variance[0] + CIRCLE_NOISE[name] ** 2))


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


@dataclass
class ToySource(Source):
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
        self.dim = self.augment_to or own
        self.scale = torch.ones(self.dim, dtype=torch.float64)  # used as they are

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

    def description(self) -> dict[str, Any]:
        """What the network file says about its data."""
        described: dict[str, Any] = {"kind": "toy", "name": self.name, "dim": self.dim}
        described["definition"] = DEFINITION
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
    if name in CIRCLE_NOISE:
        angle = torch.arange(points, dtype=torch.float64) * (2 * np.pi / points)
        ring = torch.stack([angle.cos(), angle.sin()], 1)
        scale = circle_scale(name)
        means = torch.cat([r * ring for r in CIRCLE_RADII]) / scale
        variance = torch.tensor((CIRCLE_NOISE[name] / scale) ** 2, dtype=torch.float64)
        return {"means": means, "covariance": variance}
    if name == "gmm1d":
        variances = torch.tensor(GMM1D["sds"], dtype=torch.float64) ** 2
        return {
            "means": torch.tensor(GMM1D["means"], dtype=torch.float64)[:, None],
            "covariance": variances[:, None, None],
            "weights": torch.tensor(GMM1D["weights"], dtype=torch.float64),
        }
    raise KeyError(f"{name} is no mixture of Gaussians")
