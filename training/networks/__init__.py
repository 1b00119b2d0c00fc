"""Networks: of toys and vectors, and of images."""
