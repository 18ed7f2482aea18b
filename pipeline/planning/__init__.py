"""Plans stage one, without torch."""
