"""What the kernels of both devices share: the work of BLAS, and what is asked of arguments."""
