"""What published boundaries enclose: alpha shapes, by alphashape, shapely and trimesh."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.util import atomic_path


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

    def save(self, path: Path) -> None:
        """Write a surface as .ply, atomically; polygons are not written."""
        if not self.flat:
            with atomic_path(path) as temporary:
                self.shape.export(temporary)


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
    empty = ValueError(f"the alpha shape of {name} is empty: --alpha={alpha:g} is too large")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, about the package's own code
        try:
            shape = package.alphashape(points, alpha)
        except IndexError:  # how the package says so in three dimensions
            raise empty from None
    if points.shape[1] == 3:
        return _watertight(shape, name)
    if shape.is_empty or shape.area == 0:
        raise empty
    return Region(shape)


def _watertight(mesh: Any, name: str) -> Region:
    if len(mesh.faces) and mesh.is_watertight and mesh.is_winding_consistent:
        return Region(mesh)
    raise ValueError(
        f"the mesh of {name} is not watertight ({len(mesh.faces)} triangles), so it has no inside: "
        "use --boundary=norm, other --boundary_pts, or a smaller --alpha"
    )
