"""Published boundaries: alpha shapes of points on a sphere, made anew at every stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from experiments.coverage.carrier import CAPTIONS, Carrier
from experiments.coverage.regions import Region, alpha_region
from torch_utils import seeding

DIMENSIONS = (2, 3)


def coverage_of_ball(radius: float | np.ndarray, d: int) -> np.ndarray:
    """Probability of a standard normal within Mahalanobis distance `radius`: chi2_d CDF at r^2."""
    return chi2.cdf(np.square(radius), d)


def random_sphere(d: int, radius: float, points: int, rng: np.random.Generator) -> np.ndarray:
    """Independent points, uniform on a sphere, [points, d]."""
    z = rng.standard_normal((points, d))
    return radius * z / np.linalg.norm(z, axis=1, keepdims=True)


@dataclass
class Boundary:
    """A boundary at the three stages.

    Attributes:
        radius: Mahalanobis radius in the latent.
        vertices: for each stage, [v, d].
        regions: for each stage, what it encloses.
    """

    radius: float
    vertices: dict[str, np.ndarray]
    regions: dict[str, Region]


def alpha_shapes(
    carrier: Carrier, radii: np.ndarray, points: int, alpha: float, seed: int
) -> list[Boundary]:
    """Alpha shapes of random points of spheres, made anew at every stage, as published.

    Args:
        carrier: the flow.
        radii: Mahalanobis radii, [r].
        points: on each sphere.
        alpha: inverse of the largest circumradius.
        seed: of the points.

    Raises:
        ValueError: if the dimension is neither 2 nor 3, or an alpha shape has no inside.
    """
    d = carrier.flow.schedule.data_dim
    rngs = [seeding.generator(seed, "boundary", k) for k in range(len(radii))]
    z = np.concatenate(
        [random_sphere(d, float(r), points, rng) for r, rng in zip(radii, rngs, strict=True)]
    )
    stages = carrier.stages(z, *carrier.passage(z))
    boundaries = []
    for k, radius in enumerate(radii.tolist()):
        vertices = {name: s[k * points : (k + 1) * points] for name, s in stages.items()}
        regions = {n: alpha_region(v, alpha, _named(radius, n)) for n, v in vertices.items()}
        boundaries.append(Boundary(radius, vertices, regions))
    return boundaries


def _named(radius: float, stage: str) -> str:
    where = "in the latent" if stage == "latent" else CAPTIONS[stage]
    return f"radius {radius:g} {where}"
