r"""Coverage: which share of latents lies within a sphere, before and after the flow.

Test points are drawn from the latent's Gaussian; a boundary is a sphere of Mahalanobis radius r.
Points are carried by the flow to the data and back, and the share inside is counted in the latent,
after generation and after inflating back.

After generation a point is inside the sphere's image if and only if its own inflation is within r:
|inflate(generate(z))| < r. That needs no boundary, is exact in any dimension, and is what is
counted by default (`norm`). The published way draws a boundary, see `boundaries`.

Both are statements about the flow alone, which an untrained one fulfils too, if it is invertible:
whether the flow is that of the data is for `experiments.calibration` to say.

Reference: Inflationary Flows, appendix C.2.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import Json
from experiments.coverage.boundaries import Boundary, coverage_of_ball
from experiments.coverage.carrier import CAPTIONS, STAGES
from torch_utils.work import NOTHING_KEPT, Parts, shared_rows

KINDS = ("norm", "alphashape")


def shares_by_norm(z: np.ndarray, back: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Shares of points within spheres, [stages, radii].

    Args:
        z: points in the latent, standard normal coordinates, [n, d].
        back: the same after generation and inflation, [n, d]; which is also how it is known
            whether a generated point is inside.
        radii: of the spheres, [r].

    Raises:
        ValueError: if points do not stay finite.
    """
    if not np.isfinite(back).all():
        raise ValueError(
            "points do not stay finite on their way through the flow; use a smaller --tol"
        )
    there, again = (np.linalg.norm(p, axis=1)[:, None] < radii for p in (z, back))
    return np.stack([there.mean(0), again.mean(0), again.mean(0)])


def shares_within(
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
    outlines = [[b.radius, b.vertices] for b in boundaries]
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

    def stage(self, name: str) -> Json:
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
