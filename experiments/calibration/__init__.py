"""Whether what a flow, or a posterior of it, says of held-out data is right."""
