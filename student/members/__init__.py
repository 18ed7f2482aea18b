"""The students of one run: planning, training and choosing them."""
