"""NIfTI volumes, whose slices are images."""
