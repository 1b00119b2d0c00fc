"""Benchmarks: each prints a table, its yardstick measured in the same run, and the machine."""
