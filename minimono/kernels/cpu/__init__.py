"""Running versions on the CPU, in Numba: each the formula of a reading version, fused into loops.

Every kernel is a plain Python function over rows of a matrix, compiled by a decorator, so that it
can be read, and run without Numba (`NUMBA_DISABLE_JIT=1`; `kernel.py_func` is the function as it is
written). Kernels run on one thread, and let go of Python's lock, so that two Python threads can
run two of them at once.
"""
