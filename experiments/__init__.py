"""Measurements of trained flows; each module is a script of its own."""

from dnnlib import host  # noqa: F401  (before torch and matplotlib are imported)
