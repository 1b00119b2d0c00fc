"""FID, KID and quality of digits: features, references, detectors, classifier."""

from dnnlib import host  # noqa: F401  (before torch and matplotlib are imported)
