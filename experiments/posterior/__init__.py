"""Posteriors of mixture weights seen through a flow: samplers, diagnostics, calibration."""
