"""Shares of latents within spheres that the flow carries."""
