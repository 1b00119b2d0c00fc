r"""Boundaries of coverage experiments: polygons and triangulations that a flow carries along.

A boundary starts as a sphere of given radius in the latent's standard normal coordinates z
(Mahalanobis distance). Its vertices pass through the flow and back; the simplices between them,
edges in two dimensions and triangles in three, stay what they are, so a boundary that is closed in
the latent is closed everywhere. What straight edges miss of the curved image of the sphere is kept
small by bisecting edges, see `refine`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import chi2

from experiments.coverage.regions import require

MAX_VERTICES = 200_000  # of one boundary
DIMENSIONS = (2, 3)
# Latent points z [n, d] -> the same after generation, and after inflating back, each [n, d].
Passage = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Inverse = Callable[[np.ndarray], np.ndarray]  # data [n, d] -> latent z [n, d]


def coverage_of_ball(radius: float | np.ndarray, d: int) -> np.ndarray:
    """Probability of a standard normal within Mahalanobis distance `radius`: chi2_d CDF at r^2."""
    return chi2.cdf(np.square(radius), d)


@dataclass
class Surface:
    """A closed polygon (d = 2) or triangulated surface (d = 3) at every stage of the experiment.

    Attributes:
        radius: Mahalanobis radius of its vertices.
        z: vertices in the latent, standard normal coordinates, [v, d].
        simplices: oriented edges or triangles, numbers of vertices, [m, d].
        tolerance: probability that its edges may misplace, see `refine`.
        x: vertices after generation, [v, d]; empty before `refine`.
        back: vertices after inflating back, coordinates of z, [v, d]; empty before `refine`.
        off: for each edge that was judged, the probability that its middle is off by.
        misplaced: probability that its edges misplace, see `refine`.
    """

    radius: float
    z: np.ndarray
    simplices: np.ndarray
    tolerance: float = 1e-3
    x: np.ndarray = field(default_factory=lambda: np.empty(0))
    back: np.ndarray = field(default_factory=lambda: np.empty(0))
    off: dict[tuple[int, ...], float] = field(default_factory=dict)
    misplaced: float = np.nan


def sphere(d: int, radius: float, points: int) -> Surface:
    """A regular polygon, or an icosahedron subdivided to at least so many vertices.

    Raises:
        ValueError: if d is neither 2 nor 3.
    """
    if d not in DIMENSIONS:
        raise ValueError(f"data_dim={d}: boundaries are polygons (2) or triangulations (3)")
    if d == 2:
        angle = 2 * np.pi / points * np.arange(points)
        z = radius * np.stack([np.cos(angle), np.sin(angle)], 1)
        start = np.arange(points)
        return Surface(radius, z, np.stack([start, np.roll(start, -1)], 1))
    solid = require("trimesh").creation.icosahedron()
    surface = Surface(radius, radius * _unit(solid.vertices), np.array(solid.faces))
    while len(surface.z) < points:
        edges = edges_of(surface.simplices)
        surface.z, surface.simplices = bisect(surface, edges, np.ones(len(edges), bool))
    return surface


def random_sphere(d: int, radius: float, points: int, rng: np.random.Generator) -> np.ndarray:
    """Independent points, uniform on a sphere, [points, d]."""
    return radius * _unit(rng.standard_normal((points, d)))


def edges_of(simplices: np.ndarray) -> np.ndarray:
    """The edges of polygons [m, 2] or triangles [m, 3], each once, [e, 2], smaller number first."""
    d = simplices.shape[1]
    pairs = [simplices[:, [i, (i + 1) % d]] for i in range(d if d > 2 else 1)]
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def bisect(
    surface: Surface, edges: np.ndarray, marked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put a vertex of the sphere on each marked edge, and divide the simplices that have it.

    Both triangles of an edge get the same new vertex, so that a closed surface stays closed.

    Args:
        surface: what to divide.
        edges: its edges, see `edges_of`, [e, 2].
        marked: which of them, bool [e].

    Returns:
        vertices z, the new ones at the end in the order of their edges, and simplices.
    """
    chosen = edges[marked]
    new = surface.radius * _unit(surface.z[chosen].sum(1))
    count = len(surface.z)
    numbers = {(a, b): count + k for k, (a, b) in enumerate(chosen.tolist())}
    divide = _divided_edge if surface.simplices.shape[1] == 2 else _divided_triangle
    simplices = [s for row in surface.simplices.tolist() for s in divide(row, numbers)]
    return np.concatenate([surface.z, new]), np.array(simplices)


def refine(surfaces: list[Surface], passage: Passage, inverse: Inverse) -> None:
    """Carry surfaces through the flow, bisecting edges until they follow the sphere's image.

    The midpoint of an edge in data space, inflated, misses the sphere by some distance: the
    probability within the radius found differs from that within the sphere's own. Averaged over
    the sphere, without signs, this is the coverage that a boundary misplaces. While it is more
    than the surface's tolerance, the edges that contribute most are bisected. The sphere is taken
    to be where the edge's ends are after a round trip, so that errors of the integration, which
    are the experiment's to find, do not count.

    Args:
        surfaces: changed in place.
        passage: carries latents to data and back.
        inverse: carries data to latents.

    Raises:
        ValueError: if a surface would need more than MAX_VERTICES, or does not stay finite.
    """
    rough = surfaces
    while rough:
        _carry_new(rough, passage)
        _judge_new(rough, inverse)
        rough = [s for s in rough if not _divide_worst(s)]


def _divide_worst(surface: Surface) -> bool:
    """Bisect the edges that contribute most to what is misplaced; whether that is little enough."""
    edges = edges_of(surface.simplices)
    off = np.array([surface.off[key] for key in map(tuple, edges.tolist())])
    parts = off * _shares(surface, edges)
    surface.misplaced = float(parts.sum())
    if surface.misplaced <= surface.tolerance:
        return True
    largest = np.argsort(-parts)
    left = surface.misplaced - np.cumsum(parts[largest])
    marked = np.zeros(len(edges), bool)
    marked[largest[: int((left > surface.tolerance / 2).sum()) + 1]] = True
    if len(surface.z) + marked.sum() > MAX_VERTICES:
        raise ValueError(
            f"the boundary of radius {surface.radius:g} needs more than {MAX_VERTICES:,} "
            "vertices to be followed; use a larger --boundary_tol"
        )
    surface.z, surface.simplices = bisect(surface, edges, marked)
    return False


def _judge_new(surfaces: list[Surface], inverse: Inverse) -> None:
    """Find by how much probability the middle of each new edge is off."""
    edges = [[e for e in map(tuple, edges_of(s.simplices).tolist()) if e not in s.off]
             for s in surfaces]  # fmt: skip
    pairs = [(s, np.array(e)) for s, e in zip(surfaces, edges, strict=True) if e]
    if not pairs:
        return
    middle = np.concatenate([s.x[e].mean(1) for s, e in pairs])
    ends = np.concatenate([np.linalg.norm(s.back[e], axis=2).mean(1) for s, e in pairs])
    found = np.linalg.norm(inverse(middle), axis=1)
    d = middle.shape[1]
    off = np.abs(coverage_of_ball(found, d) - coverage_of_ball(ends, d))
    for (s, e), values in zip(pairs, _split(off, [e for _, e in pairs]), strict=True):
        s.off.update(zip(map(tuple, e.tolist()), values.tolist(), strict=True))


def _unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def _split(rows: np.ndarray, like: list[np.ndarray]) -> list[np.ndarray]:
    return np.split(rows, np.cumsum([len(x) for x in like])[:-1])


def _key(edges: np.ndarray) -> np.ndarray:
    """A number for each edge, in the order of `edges_of`."""
    return edges[:, 0] << 32 | edges[:, 1]


def _shares(surface: Surface, edges: np.ndarray) -> np.ndarray:
    """Share of the sphere that each edge stands for, [e]; they add up to 1."""
    z, simplices = surface.z, surface.simplices
    if z.shape[1] == 2:
        length = np.linalg.norm(z[edges[:, 0]] - z[edges[:, 1]], axis=1)
        return length / length.sum()
    a, b, c = (z[simplices[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    pairs = np.concatenate([np.sort(simplices[:, [i, (i + 1) % 3]], axis=1) for i in range(3)])
    where = np.searchsorted(_key(edges), _key(pairs))  # edges come sorted
    return np.bincount(where, np.tile(area, 3), len(edges)) / (3 * area.sum())


def _carry_new(surfaces: list[Surface], passage: Passage) -> None:
    """Carry the vertices that have not been carried yet."""
    new = [s.z[len(s.x) :] for s in surfaces]
    if not sum(map(len, new)):
        return
    states = passage(np.concatenate(new))
    if not all(np.isfinite(rows).all() for rows in states):
        raise ValueError("a boundary does not stay finite on its way through the flow")
    x, back = (_split(rows, new) for rows in states)
    for k, s in enumerate(surfaces):
        s.x = np.concatenate([s.x.reshape(-1, s.z.shape[1]), x[k]])
        s.back = np.concatenate([s.back.reshape(-1, s.z.shape[1]), back[k]])


def _divided_edge(edge: list[int], new: dict[tuple[int, int], int]) -> list[list[int]]:
    a, b = edge
    m = new.get((min(a, b), max(a, b)))
    return [edge] if m is None else [[a, m], [m, b]]


def _divided_triangle(triangle: list[int], new: dict[tuple[int, int], int]) -> list[list[int]]:
    """One to four triangles, turning the way that the given one does."""

    def middle(a: int, b: int) -> int | None:
        return new.get((min(a, b), max(a, b)))

    a, b, c = triangle
    for _ in range(3):  # to have the first edge marked, and the third one not, where possible
        if middle(a, b) is not None and middle(c, a) is None:
            break
        a, b, c = b, c, a
    m, n, o = middle(a, b), middle(b, c), middle(c, a)
    if m is None:
        return [[a, b, c]]
    if n is None:
        return [[a, m, c], [m, b, c]]
    if o is None:
        return [[m, b, n], [a, m, n], [a, n, c]]
    return [[a, m, o], [m, b, n], [o, n, c], [m, n, o]]
