"""Running versions on a GPU, in CUDA: the names and signatures of `kernels/cpu/`.

Each kernel is its formula, the CUDA C, and below it the functions that launch it. CuPy compiles it
at the first call. Sums are taken in float64 and in a fixed order; nothing waits for the device.
"""
