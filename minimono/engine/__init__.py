"""Numbers and gradients: tensors, primitives, the functions of networks, gradient checks."""

from minimono import threads

threads.arrange()  # before the first product: the threads of kernels and of BLAS must not fight
