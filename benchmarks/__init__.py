"""`python -m benchmarks`: our training steps beside other frameworks' and the machine's limits.

`tasks.py` says what is trained. A file each for `ours`, our kernels `by_hand`, and the peers
(`torch_peer`, `jax_peer`, `mygrad_peer`, `autograd_peer`, `numpy_peer`): the same networks, loss
and optimiser as their users write them. `rounds.py` lets them take turns, `measures.py` has what is
measured beside; `run.py` has the pieces, `record.py` keeps them, `page.py` writes them up.
`load.py` sees who else is busy, `blas.py` whether BLAS is older than the processor. Apart from all
that, `python -m benchmarks.budget` prints what the tape itself costs, in nanoseconds a call.
"""
