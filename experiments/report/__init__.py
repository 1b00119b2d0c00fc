"""Results of a folder as one HTML page."""
