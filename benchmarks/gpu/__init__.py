"""`python -m benchmarks.gpu`: what there is to find out on a machine with a GPU, in eight minutes.

It needs no more than Python, NumPy, CuPy and pytest, and the rest of the repository; PyTorch is
measured beside where it is there. First the tests marked `gpu`, then a line after another of what
is measured: each in a process of its own (`children.py`), with a time of its own, since one that
breaks the device breaks it for its process. `run.py` writes down what is known after each answer.

`suite.py` has the tests, `lines.py` memory, metrics and training, `operations.py` one operation
after the other, `timing.py` the clock, `page.py` what becomes of the record in docs/gpu.md.
With `--stand-in` all of it runs at tiny sizes where there is no GPU.
"""
