"""The frozen teacher: its files, its weights, its forward pass."""
