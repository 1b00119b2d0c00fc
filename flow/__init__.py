"""The ODE of a flow and what it gives: `from flow import load_flow` is the Python door."""

from dnnlib import host  # noqa: F401  (before torch and matplotlib are imported)
from flow.flow import Flow, load_flow
from flow.inference.observe import observe
from flow.inference.posterior import Posterior

__all__ = ["Flow", "Posterior", "load_flow", "observe"]
