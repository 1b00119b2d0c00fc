"""Where samples come from: toy sets, tables of vectors, sets of images."""
