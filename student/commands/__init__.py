"""The commands of stage two, one module each."""
