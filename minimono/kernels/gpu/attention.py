"""Attention on a GPU, tile by tile: no (T, T) weights in memory. Mirrors `cpu/attention.py`.

    S = q k^T / sqrt D        P = exp(S - L),  L = log sum exp(S) of each row        out = P v

Forward goes along the keys and keeps, for each query, the highest score so far, the sum of
exp(score - highest) and the sum weighted by v; both are scaled down when a higher score comes
(Milakov & Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135). Only L is kept.
Backward makes P again, with delta = sum of g out over a row:

    gv = P^T g        dS = P (g v^T - delta) / sqrt D        gq = dS k        gk = dS^T q

once along the keys for gq, once along the queries for gk and gv: each sum has one owner, so its
order is fixed and nothing is added atomically, at the price of making P twice.

Shapes: `B` batch, `T` time (position), `H` heads, `D` channels of a head. A block of 8 x 8 threads
has TILE queries (or keys) of one head; thread (x, y) has rows y, y + 8, ... and columns x, x + 8
and so on. All blocks lie along the grid's first axis, which has room for any number of heads.
"""

from minimono.backend import Array, array_module
from minimono.kernels import Kept, Needed
from minimono.kernels.gpu.launch import Kernel, for_each, one_block

# D and TILE are constants of the compiler, so that sums stay in registers.
TILES = r"""
#define EACH (TILE / 8)        // rows, and columns of scores, of a thread
#define SPAN ((D + 7) / 8)     // channels of a thread
#define PART(which, t) ((((b * T + (t)) * 3 + (which)) * H + h) * D)  // of qkv (B, T, 3, H, D)
#define PLACE(t) (((b * T + (t)) * H + h) * D)                        // of out (B, T, H, D)
#define LEVEL(t) ((b * H + h) * T + (t))                              // of log_sum (B, H, T)

// Rows first .. first + TILE of q, k or v; 0 after the last.
__device__ void load(real (*tile)[D + 1], const real *qkv, int which, long long first,
                     long long b, long long h, long long T, long long H) {
    for (int i = threadIdx.y * 8 + threadIdx.x; i < TILE * D; i += 64) {
        long long t = first + i / D;
        tile[i / D][i % D] = t < T ? qkv[PART(which, t) + i % D] : (real)0;
    }
}

// The same of an array (B, T, H, D).
__device__ void load_rows(real (*tile)[D + 1], const real *rows, long long first,
                          long long b, long long h, long long T, long long H) {
    for (int i = threadIdx.y * 8 + threadIdx.x; i < TILE * D; i += 64) {
        long long t = first + i / D;
        tile[i / D][i % D] = t < T ? rows[PLACE(t) + i % D] : (real)0;
    }
}

// products[i][j] = one's row y + 8 i times other's row x + 8 j
__device__ void multiply(real (*products)[EACH], const real (*one)[D + 1],
                         const real (*other)[D + 1]) {
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) products[i][j] = 0;
    for (int d = 0; d < D; d++)
        for (int i = 0; i < EACH; i++)
            for (int j = 0; j < EACH; j++)
                products[i][j] += one[threadIdx.y + 8 * i][d] * other[threadIdx.x + 8 * j][d];
}

__device__ bool seen(long long query, long long key, const bool *mask, bool causal,
                     long long b, long long T) {
    return key < T && (!causal || key <= query) && (!mask || mask[b * T + key]);
}
"""

attention_kernel = Kernel(TILES + r"""
extern "C" __global__ void attention(
    const real *qkv, const bool *mask, bool causal, double scale, real *out, double *log_sum,
    long long T, long long H) {
    __shared__ real q[TILE][D + 1], kv[TILE][D + 1], p[TILE][TILE + 1];
    __shared__ real highest[TILE], shrink[TILE];
    long long tiles = (T + TILE - 1) / TILE, first = blockIdx.x % tiles * TILE;
    long long b = blockIdx.x / tiles / H, h = blockIdx.x / tiles % H;
    int x = threadIdx.x, y = threadIdx.y, row = y * 8 + x;
    real weighted[EACH][SPAN] = {}, s[EACH][EACH];
    double sum[EACH] = {};
    load(q, qkv, 0, first, b, h, T, H);
    if (row < TILE) highest[row] = -INFINITE;
    long long end = causal && first + TILE < T ? first + TILE : T;
    for (long long key = 0; key < end; key += TILE) {
        load(kv, qkv, 1, key, b, h, T, H);
        __syncthreads();
        multiply(s, q, kv);
        for (int i = 0; i < EACH; i++)
            for (int j = 0; j < EACH; j++) {
                int r = y + 8 * i, c = x + 8 * j;
                bool may = seen(first + r, key + c, mask, causal, b, T);
                p[r][c] = s[i][j] = may ? s[i][j] * (real)scale : -INFINITE;
            }
        __syncthreads();
        load(kv, qkv, 2, key, b, h, T, H);  // k has been read: v takes its place
        if (row < TILE) {
            real top = highest[row];
            for (int c = 0; c < TILE; c++) top = fmax(top, p[row][c]);
            // Nothing seen so far: all sums are 0 and stay so.
            shrink[row] = top == -INFINITE ? (real)1 : exp(highest[row] - top);
            highest[row] = top;
        }
        __syncthreads();
        for (int i = 0; i < EACH; i++) {
            int r = y + 8 * i;
            for (int j = 0; j < EACH; j++)
                p[r][x + 8 * j] = s[i][j] == -INFINITE ? (real)0 : exp(s[i][j] - highest[r]);
            sum[i] *= shrink[r];
            for (int d = 0; d < SPAN; d++) weighted[i][d] *= shrink[r];
        }
        __syncthreads();
        for (int c = 0; c < TILE; c++)
            for (int i = 0; i < EACH; i++) {
                real weight = p[y + 8 * i][c];
                sum[i] += weight;
                for (int d = 0; d < SPAN; d++)
                    if (x + 8 * d < D) weighted[i][d] += weight * kv[c][x + 8 * d];
            }
        __syncthreads();
    }
    for (int i = 0; i < EACH; i++) {
        long long t = first + y + 8 * i;
        if (t >= T) continue;
        for (int d = 0; d < SPAN; d++)  // 0 / 0, nan, where nothing may be seen
            if (x + 8 * d < D) out[PLACE(t) + x + 8 * d] = weighted[i][d] / (real)sum[i];
        if (x == 0) log_sum[LEVEL(t)] = (double)highest[y + 8 * i] + log(sum[i]);
    }
}
""")

# delta (B, H, T) = sum over D of g out; one thread for each number.

attention_delta_kernel = Kernel(r"""
extern "C" __global__ void attention_delta(
    const real *g, const real *out, real *delta, long long T, long long H, long long size) {
    EACH_ELEMENT(i, size) {
        long long t = i % T, h = i / T % H, b = i / T / H;
        long long place = ((b * T + t) * H + h) * D;
        double sum = 0.0;
        for (int d = 0; d < D; d++) sum += (double)g[place + d] * out[place + d];
        delta[i] = sum;
    }
}
""")

# From s = q k^T and gp = g v^T to P and dS, in place, for one score.

WEIGHTS_AGAIN = r"""
__device__ void weights_again(real &s, real &gp, bool may, real scale, double level, real delta) {
    s = may ? exp((real)((double)(s * scale) - level)) : (real)0;
    gp = may ? s * (gp - delta) * scale : (real)0;
}
"""

attention_query_gradient_kernel = Kernel(TILES + WEIGHTS_AGAIN + r"""
extern "C" __global__ void attention_query_gradient(
    const real *g, const real *qkv, const bool *mask, bool causal, double scale,
    const double *log_sum, const real *delta, real *gqkv, long long T, long long H) {
    __shared__ real q[TILE][D + 1], go[TILE][D + 1], k[TILE][D + 1], v[TILE][D + 1];
    __shared__ real ds[TILE][TILE + 1];
    long long tiles = (T + TILE - 1) / TILE, first = blockIdx.x % tiles * TILE;
    long long b = blockIdx.x / tiles / H, h = blockIdx.x / tiles % H;
    int x = threadIdx.x, y = threadIdx.y;
    real gq[EACH][SPAN] = {}, s[EACH][EACH], gp[EACH][EACH];
    load(q, qkv, 0, first, b, h, T, H);
    load_rows(go, g, first, b, h, T, H);
    long long end = causal && first + TILE < T ? first + TILE : T;
    for (long long key = 0; key < end; key += TILE) {
        load(k, qkv, 1, key, b, h, T, H);
        load(v, qkv, 2, key, b, h, T, H);
        __syncthreads();
        multiply(s, q, k);
        multiply(gp, go, v);
        for (int i = 0; i < EACH; i++) {
            long long t = first + y + 8 * i;
            double level = t < T ? log_sum[LEVEL(t)] : 0.0;
            real mean = t < T ? delta[LEVEL(t)] : (real)0;
            for (int j = 0; j < EACH; j++) {
                bool may = t < T && seen(t, key + x + 8 * j, mask, causal, b, T);
                weights_again(s[i][j], gp[i][j], may, scale, level, mean);
                ds[y + 8 * i][x + 8 * j] = gp[i][j];
            }
        }
        __syncthreads();
        for (int c = 0; c < TILE; c++)
            for (int i = 0; i < EACH; i++)
                for (int d = 0; d < SPAN; d++)
                    if (x + 8 * d < D) gq[i][d] += ds[y + 8 * i][c] * k[c][x + 8 * d];
        __syncthreads();
    }
    for (int i = 0; i < EACH; i++)
        for (int d = 0; d < SPAN; d++)
            if (first + y + 8 * i < T && x + 8 * d < D)
                gqkv[PART(0, first + y + 8 * i) + x + 8 * d] = gq[i][d];
}
""")

# Here a block has TILE keys, and rows of scores are keys: s[i][j] is of key y + 8 i, query x + 8 j.

attention_key_gradient_kernel = Kernel(TILES + WEIGHTS_AGAIN + r"""
extern "C" __global__ void attention_key_gradient(
    const real *g, const real *qkv, const bool *mask, bool causal, double scale,
    const double *log_sum, const real *delta, real *gqkv, long long T, long long H) {
    __shared__ real k[TILE][D + 1], v[TILE][D + 1], q[TILE][D + 1], go[TILE][D + 1];
    __shared__ real p[TILE][TILE + 1], ds[TILE][TILE + 1];
    long long tiles = (T + TILE - 1) / TILE, first = blockIdx.x % tiles * TILE;
    long long b = blockIdx.x / tiles / H, h = blockIdx.x / tiles % H;
    int x = threadIdx.x, y = threadIdx.y;
    real gk[EACH][SPAN] = {}, gv[EACH][SPAN] = {}, s[EACH][EACH], gp[EACH][EACH];
    load(k, qkv, 1, first, b, h, T, H);
    load(v, qkv, 2, first, b, h, T, H);
    for (long long query = causal ? first : 0; query < T; query += TILE) {
        load(q, qkv, 0, query, b, h, T, H);
        load_rows(go, g, query, b, h, T, H);
        __syncthreads();
        multiply(s, k, q);
        multiply(gp, v, go);
        for (int j = 0; j < EACH; j++) {
            long long t = query + x + 8 * j;
            double level = t < T ? log_sum[LEVEL(t)] : 0.0;
            real mean = t < T ? delta[LEVEL(t)] : (real)0;
            for (int i = 0; i < EACH; i++) {
                bool may = t < T && seen(t, first + y + 8 * i, mask, causal, b, T);
                weights_again(s[i][j], gp[i][j], may, scale, level, mean);
                p[y + 8 * i][x + 8 * j] = s[i][j], ds[y + 8 * i][x + 8 * j] = gp[i][j];
            }
        }
        __syncthreads();
        for (int c = 0; c < TILE; c++)
            for (int i = 0; i < EACH; i++)
                for (int d = 0; d < SPAN; d++)
                    if (x + 8 * d < D) {
                        gv[i][d] += p[y + 8 * i][c] * go[c][x + 8 * d];
                        gk[i][d] += ds[y + 8 * i][c] * q[c][x + 8 * d];
                    }
        __syncthreads();
    }
    for (int i = 0; i < EACH; i++)
        for (int d = 0; d < SPAN; d++)
            if (first + y + 8 * i < T && x + 8 * d < D) {
                gqkv[PART(1, first + y + 8 * i) + x + 8 * d] = gk[i][d];
                gqkv[PART(2, first + y + 8 * i) + x + 8 * d] = gv[i][d];
            }
}
""")

SHARED = 48 * 1024  # bytes that any block may have


def tile_for(channels: int, itemsize: int) -> int:
    """Return the largest tile whose arrays, four (TILE, D), two (TILE, TILE), fit a block's memory.

    Raises ValueError for heads so wide that none does.
    """
    for tile in (32, 16, 8):
        if (4 * (channels + 1) + 2 * (tile + 1)) * tile * itemsize <= SHARED:
            return tile
    widest = SHARED // (4 * 8 * itemsize) - 6
    raise ValueError(
        f"self_attention: a head has {channels} channels, the GPU's kernel takes at most {widest} "
        f"of {8 * itemsize} bits; use more heads, or minimono.reference()"
    )


def packed_attention_forward(
    qkv: Array, mask: Array | None, is_causal: bool
) -> tuple[Array, Kept]:
    """`qkv` (B, T, 3, H, D), `mask` (B, T) booleans or None -> (B, T, H, D)."""
    B, T, _, H, D = qkv.shape
    xp, tile = array_module(qkv), tile_for(D, qkv.dtype.itemsize)
    out, log_sum = xp.empty((B, T, H, D), qkv.dtype), xp.empty((B, H, T))
    attention_kernel(
        qkv.dtype, (-(-T // tile) * B * H,), (8, 8), one_block(qkv), _block_or_none(mask),
        is_causal, D**-0.5, out, log_sum, T, H, D=D, TILE=tile,
    )
    return out, log_sum


def packed_attention_backward(
    needed: Needed, g: Array, out: Array, log_sum: Kept, qkv: Array, mask: Array | None,
    is_causal: bool,
) -> tuple[Array, ...]:
    B, T, _, H, D = qkv.shape
    xp, tile = array_module(qkv), tile_for(D, qkv.dtype.itemsize)
    g, qkv, mask = one_block(g), one_block(qkv), _block_or_none(mask)
    gqkv, delta = xp.empty(qkv.shape, qkv.dtype), xp.empty((B, H, T), qkv.dtype)
    attention_delta_kernel(
        qkv.dtype, *for_each(delta.size), g, one_block(out), delta, T, H, delta.size, D=D,
        TILE=tile,
    )
    for kernel in (attention_query_gradient_kernel, attention_key_gradient_kernel):
        kernel(
            qkv.dtype, (-(-T // tile) * B * H,), (8, 8), g, qkv, mask, is_causal, D**-0.5, log_sum,
            delta, gqkv, T, H, D=D, TILE=tile,
        )
    return (gqkv,)


def _block_or_none(mask: Array | None) -> Array | None:
    return None if mask is None else one_block(mask)
