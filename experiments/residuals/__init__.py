"""What a network gets wrong, and its correlations between dimensions."""
