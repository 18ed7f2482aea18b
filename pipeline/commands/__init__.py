"""The commands of stage one, one module each."""
