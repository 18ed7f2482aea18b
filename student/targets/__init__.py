"""What a student learns from: soft and hard targets, and all changes to them."""
