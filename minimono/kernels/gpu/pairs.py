"""Means over all pairs of inputs: array operations and BLAS, as on the other device."""

from minimono.kernels.both.pairs import mean_distance as mean_distance
from minimono.kernels.both.pairs import weighted_cosine as weighted_cosine
