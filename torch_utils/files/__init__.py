"""Files of networks and data, read without running what is in them."""
