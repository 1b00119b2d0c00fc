"""PyTorch plumbing: processes, network files."""

from dnnlib import host  # noqa: F401  (before torch and matplotlib are imported)
