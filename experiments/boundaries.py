r"""Boundaries of coverage experiments: polygons and triangulations that a flow carries along.

A boundary starts as a sphere of given radius in the latent's standard normal coordinates z
(Mahalanobis distance). Its vertices pass through the flow and back; the simplices between them,
edges in two dimensions and triangles in three, stay what they are, so a boundary that is closed in
the latent is closed everywhere. What straight edges miss of the curved image of the sphere is kept
small by bisecting edges, see `refine`.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import chi2

STAGES = ("latent", "gen", "roundtrip")
CAPTIONS = {"latent": "latent", "gen": "after generation", "roundtrip": "after inflating back"}
MAX_ROUNDS = 16
MAX_VERTICES = 200_000  # of one boundary
DIMENSIONS = (2, 3)
# Latent points z [n, d] -> the same after generation, and after inflating back, each [n, d].
Passage = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Inverse = Callable[[np.ndarray], np.ndarray]  # data [n, d] -> latent z [n, d]


def require(name: str) -> Any:
    """Import a package of the `experiments` extra.

    Raises:
        ValueError: saying how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"the Python package {name} is not installed: pip install '.[experiments]'"
        ) from None


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
        x: vertices after generation, [v, d]; empty before `refine`.
        back: vertices after inflating back, coordinates of z, [v, d]; empty before `refine`.
        deviation: largest probability by which an edge is off, see `refine`.
    """

    radius: float
    z: np.ndarray
    simplices: np.ndarray
    x: np.ndarray = field(default_factory=lambda: np.empty(0))
    back: np.ndarray = field(default_factory=lambda: np.empty(0))
    deviation: float = 0.0


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


def refine(
    surfaces: list[Surface],
    passage: Passage,
    inverse: Inverse,
    tolerance: float,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Carry surfaces through the flow, bisecting edges until they follow the sphere's image.

    The midpoint of an edge in data space, inflated, misses the sphere by some distance. An edge is
    bisected where the probability within the radius found differs from that within the sphere's
    own by more than the tolerance: were every edge off by that much, so would the coverage be. The
    sphere is taken to be where the edge's ends are after a round trip, so that errors of the
    integration, which are the experiment's to find, do not count.

    Args:
        surfaces: changed in place.
        passage: carries latents to data and back.
        inverse: carries data to latents.
        tolerance: probability that an edge may be off by.
        progress: called with the number of points carried.

    Raises:
        ValueError: if a surface would need more than MAX_VERTICES.
    """
    d = surfaces[0].z.shape[1]
    done = [np.empty((0, 2), int) for _ in surfaces]
    for _ in range(MAX_ROUNDS):
        _carry_new(surfaces, passage, progress)
        edges = [_not_in(edges_of(s.simplices), old) for s, old in zip(surfaces, done, strict=True)]
        if not sum(map(len, edges)):
            return
        middle = [s.x[e].mean(1) for s, e in zip(surfaces, edges, strict=True)]
        found = _split(inverse(np.concatenate(middle)), middle)
        if progress is not None:
            progress(sum(map(len, middle)))
        for k, (s, e) in enumerate(zip(surfaces, edges, strict=True)):
            ends = np.linalg.norm(s.back[e], axis=2).mean(1)
            radii = np.linalg.norm(found[k], axis=1)
            off = np.abs(coverage_of_ball(radii, d) - coverage_of_ball(ends, d))
            marked = off > tolerance
            done[k] = np.concatenate([done[k], e[~marked]])
            s.deviation = max(s.deviation, float(off[~marked].max(initial=0.0)))
            if len(s.z) + marked.sum() > MAX_VERTICES:
                raise ValueError(
                    f"the boundary of radius {s.radius:g} needs more than {MAX_VERTICES:,} "
                    f"vertices to be followed to --boundary_tol={tolerance:g}; use a larger one"
                )
            s.z, s.simplices = bisect(s, e, marked)
    _carry_new(surfaces, passage, progress)


class Region:
    """What a boundary encloses at one stage.

    Args:
        shape: a shapely polygon, or a watertight trimesh.
    """

    def __init__(self, shape: Any):
        self.shape = shape
        self.flat = not hasattr(shape, "faces")

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Which of the points [n, d] are inside, bool [n]."""
        if self.flat:
            shapely = require("shapely")
            shapely.prepare(self.shape)
            return shapely.contains_xy(self.shape, *points.T)
        return self.shape.contains(points)

    def rings(self) -> list[np.ndarray]:
        """The closed lines that bound a polygon, each [v, 2]."""
        parts = getattr(self.shape, "geoms", [self.shape])
        lines = [line for p in parts for line in (p.exterior, *p.interiors)]
        return [np.array(line.coords) for line in lines]


def polygon_region(vertices: np.ndarray, simplices: np.ndarray) -> Region | None:
    """The inside of a closed polygon of vertices [v, 2] and edges [v, 2]; None if it crosses itself."""
    shapely = require("shapely")
    after = np.empty(len(vertices), int)
    after[simplices[:, 0]] = simplices[:, 1]
    order = [0]
    while len(order) < len(vertices):
        order.append(int(after[order[-1]]))
    polygon = shapely.Polygon(vertices[order])
    return Region(polygon) if polygon.is_valid else None


def mesh_region(vertices: np.ndarray, triangles: np.ndarray, name: str) -> Region:
    """The inside of a triangulated surface.

    Args:
        vertices: [v, 3].
        triangles: numbers of vertices, [m, 3].
        name: what to call it in the message.

    Raises:
        ValueError: if the surface has holes or edges of more than two triangles.
    """
    mesh = require("trimesh").Trimesh(vertices, triangles, process=False)
    return _watertight(mesh, name)


def alpha_region(points: np.ndarray, alpha: float, name: str) -> Region:
    """The inside of the alpha shape of points [n, d].

    Args:
        points: in two or three dimensions.
        alpha: inverse of the largest circumradius of its triangles or tetrahedra.
        name: what to call it in the message.

    Raises:
        ValueError: if it is empty, or not watertight.
    """
    package = require("alphashape")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, about the package's own code
        shape = package.alphashape(points, alpha)
    if points.shape[1] == 3:
        return _watertight(shape, name)
    if shape.is_empty or shape.area == 0:
        raise ValueError(f"the alpha shape of {name} is empty: --alpha={alpha:g} is too large")
    return Region(shape)


def _watertight(mesh: Any, name: str) -> Region:
    if len(mesh.faces) and mesh.is_watertight and mesh.is_winding_consistent:
        return Region(mesh)
    raise ValueError(
        f"the mesh of {name} is not watertight ({len(mesh.faces)} triangles), so it has no inside: "
        "use --boundary=transported, other --boundary_pts, or a smaller --alpha"
    )


def _unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def _split(rows: np.ndarray, like: list[np.ndarray]) -> list[np.ndarray]:
    return np.split(rows, np.cumsum([len(x) for x in like])[:-1])


def _not_in(edges: np.ndarray, old: np.ndarray) -> np.ndarray:
    key = edges[:, 0] << 32 | edges[:, 1]
    return edges[~np.isin(key, old[:, 0] << 32 | old[:, 1])]


def _carry_new(
    surfaces: list[Surface], passage: Passage, progress: Callable[[int], Any] | None
) -> None:
    """Carry the vertices that have not been carried yet."""
    new = [s.z[len(s.x) :] for s in surfaces]
    if not sum(map(len, new)):
        return
    x, back = (_split(rows, new) for rows in passage(np.concatenate(new)))
    for k, s in enumerate(surfaces):
        s.x = np.concatenate([s.x.reshape(-1, s.z.shape[1]), x[k]])
        s.back = np.concatenate([s.back.reshape(-1, s.z.shape[1]), back[k]])
    if progress is not None:
        progress(sum(map(len, new)))


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
