"""What a student learns from: soft and hard targets, and everything that may be done to them."""
