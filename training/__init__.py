"""The model (schedule, basis, preconditioner, networks), its training, and its flow."""

from dnnlib import host  # noqa: F401  (before torch and matplotlib are imported)
