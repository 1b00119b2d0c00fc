r"""Coverage: which share of latents lies within a boundary, before and after the flow.

Test points are drawn from the latent's Gaussian; a boundary is a sphere of Mahalanobis radius r.
Points and boundary are carried by the flow to the data and back. The share of points inside is
counted in the latent, after generation and after inflating back. For an invertible flow, and a
boundary that follows it, the three are equal, and equal to the chi-square CDF at r^2 up to
sampling.

All geometry is in the paper's scaled coordinates: `scaled_es` in the latent, `scaled` at t = 0.

Reference: Inflationary Flows, appendix C.2.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.coverage.boundaries import Surface, coverage_of_ball, random_sphere, refine, sphere
from experiments.coverage.regions import Region, alpha_region, mesh_region, polygon_region
from flow.flow import Flow
from flow.simulation import Method
from torch_utils import seeding
from torch_utils.work import NOTHING_KEPT, Parts, shared_rows

KINDS = ("transported", "alphashape")
STAGES = ("latent", "gen", "roundtrip")
CAPTIONS = {"latent": "latent", "gen": "after generation", "roundtrip": "after inflating back"}
UNTANGLE = 4  # times that a polygon which crosses itself is refined further
LEAST_KEPT = 1000  # rows whose passage is kept on disk
LEAST_POINTS = 200  # of a transported boundary, before it is refined


@dataclass
class Carrier:
    """The flow of one experiment. Its methods share points among ranks: all ranks must call them.

    Attributes:
        flow: the flow.
        method: how to integrate.
        eps: variance of the compressed latents in the paper's coordinates; None for the schedule's.
        parts: keeps what has been carried; its identity says nothing of flow, method and eps.
    """

    flow: Flow
    method: Method
    eps: float | None = None
    parts: Parts = NOTHING_KEPT

    def __post_init__(self) -> None:
        if self.parts.folder is not None:
            self.parts = self.parts.also(
                flow=self.flow.model, method=self.method.how(), eps=self.eps
            )

    def kept(self, rows: np.ndarray, **identity: Any) -> Parts:
        """What keeps the outcome of so many rows; few are sooner carried again than read."""
        if len(rows) < LEAST_KEPT:
            return NOTHING_KEPT
        return self.parts.also(rows=rows, **identity)

    def points(self, n: int, seed: int) -> np.ndarray:
        """Test points of a seed, standard normal, [n, d]."""
        return seeding.normals(seed, "latents", 0, n, self.flow.schedule.data_dim)

    def latents(self, z: np.ndarray) -> Tensor:
        """Standard normal coordinates z [n, d] to whitened latents."""
        return self.flow.colour(torch.from_numpy(z), self.eps, self.method.stop)

    def passage(self, z: np.ndarray, label: str = "boundary") -> tuple[np.ndarray, np.ndarray]:
        """Latents z [n, d] to data in its own units, and those back to latents z, [n, d] each."""
        u = self.latents(z)

        def there_and_back(rows: range) -> Tensor:
            block = u[rows.start : rows.stop]
            x = self.flow.generate(block, coords="whitened", **self.method.how())
            back = self.flow.inflate(x, coords="whitened", **self.method.how())
            return torch.stack([x, back], 1)

        parts = self.kept(z, way="there and back")
        states = shared_rows(there_and_back, len(z), self.flow.block, label, parts)
        return states[:, 0].numpy(), self._normal(states[:, 1])

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """Data x [n, d] in its own units to latents z, [n, d]."""

        def back(rows: range) -> Tensor:
            block = x[rows.start : rows.stop]
            return self.flow.inflate(block, coords="whitened", **self.method.how())

        parts = self.kept(x, way="back")
        return self._normal(shared_rows(back, len(x), self.flow.block, "boundary", parts))

    def stages(self, z: np.ndarray, x: np.ndarray, back: np.ndarray) -> dict[str, np.ndarray]:
        """Points of the three stages in the coordinates of the geometry, [n, d] each."""
        flow, method = self.flow, self.method
        data = flow.to_whitened(x, method.start, "unscaled")
        return {
            "latent": self._scaled(z),
            "gen": flow.from_whitened(data, method.start, "scaled").cpu().numpy(),
            "roundtrip": self._scaled(back),
        }

    def _scaled(self, z: np.ndarray) -> np.ndarray:
        u = self.latents(z)
        return self.flow.from_whitened(u, self.method.stop, "scaled_es").cpu().numpy()

    def _normal(self, u: Tensor) -> np.ndarray:
        """Whitened latents [n, d] to z: the inverse of `latents`."""
        return (u / self.latents(np.ones((1, u.shape[1]))).to(u)).numpy()


@dataclass
class Boundary:
    """A boundary at the three stages.

    Attributes:
        radius: Mahalanobis radius in the latent.
        vertices: for each stage, [v, d].
        regions: for each stage, what it encloses.
        simplices: edges or triangles of a transported boundary, [m, d]; None for alpha shapes.
        misplaced: see `Surface`.
    """

    radius: float
    vertices: dict[str, np.ndarray]
    regions: dict[str, Region]
    simplices: np.ndarray | None = None
    misplaced: float | None = None


def transported(
    carrier: Carrier, radii: np.ndarray, points: int, tolerance: float | np.ndarray
) -> list[Boundary]:
    """Spheres carried by the flow with their own edges or triangles.

    Args:
        carrier: the flow.
        radii: Mahalanobis radii, [r].
        points: vertices to begin with; LEAST_POINTS at least.
        tolerance: probability that edges may misplace, see `refine`; for all radii, or [r].

    Raises:
        ValueError: if the dimension is neither 2 nor 3, or a boundary cannot be followed.
    """
    d = carrier.flow.schedule.data_dim
    surfaces = [sphere(d, float(r), max(points, LEAST_POINTS)) for r in radii]
    for surface, value in zip(surfaces, np.broadcast_to(tolerance, len(radii)), strict=True):
        surface.tolerance = float(value)
    refine(surfaces, carrier.passage, carrier.inverse)
    return [_closed(carrier, s) for s in surfaces]


def _closed(carrier: Carrier, surface: Surface) -> Boundary:
    for attempt in range(1, UNTANGLE + 2):
        vertices = carrier.stages(surface.z, surface.x, surface.back)
        regions = {
            k: polygon_region(v, surface.simplices) if v.shape[1] == 2
            else mesh_region(v, surface.simplices, _named(surface.radius, k))
            for k, v in vertices.items()
        }  # fmt: skip
        crossed = [k for k, region in regions.items() if region is None]
        if not crossed:
            whole = {k: region for k, region in regions.items() if region is not None}
            return Boundary(surface.radius, vertices, whole, surface.simplices, surface.misplaced)
        if attempt <= UNTANGLE:
            surface.tolerance /= 4
            refine([surface], carrier.passage, carrier.inverse)
    raise ValueError(
        f"the boundary of radius {surface.radius:g} crosses itself {_where(crossed[0])}: use a "
        "smaller --boundary_tol, and a smaller --tol if the integration is coarse"
    )


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


def coverages(
    boundaries: list[Boundary],
    points: dict[str, np.ndarray],
    label: str,
    parts: Parts = NOTHING_KEPT,
) -> np.ndarray:
    """Shares of points inside, [stages, radii]. All ranks must call this.

    Args:
        boundaries: of each radius.
        points: for each stage, [n, d].
        label: of the progress bar.
        parts: keeps the shares of each radius.
    """
    outlines = [[b.radius, b.vertices, b.simplices] for b in boundaries]
    parts = parts.also(points=points, boundaries=outlines, what="shares")

    def inside(rows: range) -> Tensor:
        regions = boundaries[rows.start].regions
        return torch.tensor([[regions[k].contains(points[k]).mean() for k in STAGES]])

    return shared_rows(inside, len(boundaries), 1, label, parts).T.numpy()


def binomial_error(radii: np.ndarray, d: int, points: int) -> np.ndarray:
    """Standard error of the share of so many points within each radius, [radii]."""
    exact = coverage_of_ball(radii, d)
    return np.sqrt(exact * (1 - exact) / points)


@dataclass
class Report:
    """Coverages of all seeds.

    Attributes:
        d: dimensions of the data.
        radii: Mahalanobis radii, [r].
        seeds: of the test points, [s].
        points: test points of each seed.
        shares: [seeds, stages, radii].
    """

    d: int
    radii: np.ndarray
    seeds: list[int]
    points: int
    shares: np.ndarray = field(repr=False)

    @property
    def theory(self) -> np.ndarray:
        """Chi-square values, [radii]."""
        return coverage_of_ball(self.radii, self.d)

    @property
    def standard_error(self) -> np.ndarray:
        """Binomial standard error of one seed's shares, [radii]."""
        return binomial_error(self.radii, self.d, self.points)

    def spread(self) -> np.ndarray:
        """Standard deviation over seeds, [stages, radii]; zero for a single seed."""
        return self.shares.std(0, ddof=1 if len(self.seeds) > 1 else 0)

    def stage(self, name: str) -> dict[str, Any]:
        """What the stage's .json says of the coverage, plain values."""
        k = STAGES.index(name)
        change = np.abs(self.shares[:, k] - self.shares[:, 0])
        return {
            "stage": name,
            "radii": self.radii.tolist(),
            "chi_square": self.theory.tolist(),
            "binomial_standard_error": self.standard_error.tolist(),
            "mean": self.shares[:, k].mean(0).tolist(),
            "two_sd": (2 * self.spread()[k]).tolist(),
            "by_seed": dict(zip(map(str, self.seeds), self.shares[:, k].tolist(), strict=True)),
            "largest_change_from_latent": float(change.max()),
        }

    def lines(self) -> list[str]:
        """The result as a table of text, coverages in percent."""
        lines = [f"radius  chi-square  {'  '.join(f'{CAPTIONS[s]:>21}' for s in STAGES)}   (%)"]
        mean, two = 100 * self.shares.mean(0), 200 * self.spread()
        for r, radius in enumerate(self.radii):
            cells = [f"{mean[k, r]:12.2f} +- {two[k, r]:5.2f}" for k in range(len(STAGES))]
            lines.append(f"{radius:6.2f}  {100 * self.theory[r]:10.2f}  {'  '.join(cells)}")
        return lines


def _where(stage: str) -> str:
    return "in the latent" if stage == "latent" else CAPTIONS[stage]


def _named(radius: float, stage: str) -> str:
    return f"radius {radius:g} {_where(stage)}"
