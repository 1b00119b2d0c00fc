"""The library of diagnostics, arviz, of whatever version: imported only where it is asked for."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np


def arviz() -> Any:
    """The library of diagnostics, without the notes that it prints when it is imported.

    Raises:
        ValueError: saying how to install it, where it is missing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("arviz")
        except ImportError:
            raise ValueError(
                "R-hat and effective sizes need arviz: pip install '.[experiments]'"
            ) from None


def inference_data(posterior: dict[str, np.ndarray], **labels: Any) -> Any:
    """Draws, name -> [chains, draws, ...], as arviz's InferenceData; from 1 on, xarray's DataTree.

    Args:
        posterior: draws by name.
        labels: "coords" and "dims", see `arviz.from_dict`.
    """
    az = arviz()
    if int(az.__version__.split(".")[0]) >= 1:
        return az.from_dict({"posterior": posterior}, **labels)
    return az.from_dict(posterior=posterior, **labels)
