"""Running the teacher on this machine: loading images, forward passes, precision, ranks."""
