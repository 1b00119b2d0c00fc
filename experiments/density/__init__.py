"""Likelihood of data sets, Gaussianity of their latents, the reverse SDE."""
