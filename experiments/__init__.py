"""Measurements of trained flows; each module is a script of its own."""
