"""Mean cross-entropy in CUDA: L - logit of the target, L = log sum exp of the logits.

Only L is kept, one number for each row; probabilities are made again from it: exp(logit - L).
Backward: (exp(logit - L) - [j is the target]) g / N. logits (N, C), targets, L, losses (N,).
"""

from minimono.backend import Array, array_module
from minimono.kernels import Kept, Needed
from minimono.kernels.gpu.launch import Kernel, each_row, empty_like

cross_entropy_kernel = Kernel(r"""
extern "C" __global__ void cross_entropy(
    const real *logits, const long long *targets, double *log_sum, double *losses,
    long long channels) {
    logits += blockIdx.x * channels;
    real highest = -INFINITE;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x)
        highest = fmax(highest, logits[j]);
    real top = block_max(highest);
    double sum = 0.0;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) sum += exp(logits[j] - top);
    double log_of_sum = log(block_sum(sum));
    if (threadIdx.x == 0) {
        log_sum[blockIdx.x] = top + log_of_sum;
        losses[blockIdx.x] = log_of_sum - ((double)logits[targets[blockIdx.x]] - top);
    }
}
""")

cross_entropy_gradient_kernel = Kernel(r"""
extern "C" __global__ void cross_entropy_gradient(
    const real *logits, const long long *targets, const double *log_sum, const real *g,
    real *gradient, long long channels) {
    logits += blockIdx.x * channels, gradient += blockIdx.x * channels;
    real scale = g[0] / gridDim.x;
    double level = log_sum[blockIdx.x];
    long long target = targets[blockIdx.x];
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) {
        real probability = exp((real)(logits[j] - level));
        gradient[j] = j == target ? scale * probability - scale : scale * probability;
    }
}
""")


def mean_cross_entropy_forward(logits: Array, targets: Array) -> tuple[Array, Kept]:
    xp = array_module(logits)
    log_sum, losses = xp.empty(len(logits)), xp.empty(len(logits))
    each_row(cross_entropy_kernel, logits, targets, log_sum, losses)
    return xp.asarray(losses.mean(), dtype=logits.dtype), log_sum


def mean_cross_entropy_backward(
    needed: Needed, g: Array, out: Array, log_sum: Kept, logits: Array, targets: Array
) -> tuple[Array, ...]:
    gradient = empty_like(logits)
    each_row(cross_entropy_gradient_kernel, logits, targets, log_sum, g, gradient)
    return (gradient,)
