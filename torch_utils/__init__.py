"""PyTorch plumbing: processes, network files."""
