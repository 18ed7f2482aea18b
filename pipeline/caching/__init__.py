"""The whole of stage one, and reprobing."""
