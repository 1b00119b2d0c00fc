"""Posteriors of a user's own observations: calc_posterior.py."""
