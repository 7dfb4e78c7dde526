"""What the kernels of both devices share."""
