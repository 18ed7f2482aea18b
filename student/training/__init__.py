"""The training loop: losses, drawing of batches, checkpoints, trackers."""
