"""Posteriors through a flow: p(x | y) and p(z | y) for any measurement y of the data."""
