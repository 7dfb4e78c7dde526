// Just enough of CUDA to run a kernel on the CPU, block after block.
//
// The threads of a block are fibres of one thread of the system. Each runs until it waits at a
// barrier (__syncthreads) or for its warp (__shfl...), and the next one goes on. The order in which
// they go on, and that of the blocks, is drawn from `seed` again and again, and a warp may get far
// ahead of another: a kernel that lacks a barrier, or whose sums depend on who comes first, gives
// other numbers with other seeds.

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __shared__ static  // one block runs at a time
#define __restrict__

using std::isnan;

struct Place { unsigned x, y, z; };
static Place threadIdx, blockIdx, blockDim, gridDim;

static float __int_as_float(int bits) { float x; memcpy(&x, &bits, 4); return x; }

namespace emulator {

enum State { READY, AT_BARRIER, IN_WARP, DONE };
constexpr int MOST = 1024;
constexpr size_t STACK = 1 << 16;

static ucontext_t fibre[MOST];                  // to start a fibre on its own stack,
static jmp_buf fibre_place[MOST], scheduler_place;  // and to switch: ten times as fast
static bool begun[MOST];
static char *stack[MOST];
static State state[MOST];
static int barrier_line[MOST];
static double slot[MOST];  // what a thread shows the others of its warp
static int me, threads;
static void (*kernel)(void **);
static void **arguments;
static uint64_t random_state;

static unsigned draw(unsigned below) {  // xorshift
    random_state ^= random_state << 13, random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % below;
}

static void shuffle(int *order, int n) {
    for (int i = 0; i < n; i++) order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = draw(i + 1), kept = order[i];
        order[i] = order[j], order[j] = kept;
    }
}

static void wait(State why, int line) {
    state[me] = why, barrier_line[me] = line;
    if (!_setjmp(fibre_place[me])) _longjmp(scheduler_place, 1);
}

static void body() {
    kernel(arguments);
    state[me] = DONE;
    _longjmp(scheduler_place, 1);
}

static void go_on() {
    if (_setjmp(scheduler_place)) return;
    if (begun[me]) _longjmp(fibre_place[me], 1);
    begun[me] = true;
    setcontext(&fibre[me]);
}

// Threads of a warp that all wait for it go on.
static const char *release_warp(int first) {
    int last = first + 32 < threads ? first + 32 : threads, waiting = 0, done = 0;
    for (int t = first; t < last; t++) waiting += state[t] == IN_WARP, done += state[t] == DONE;
    if (waiting && done) return "a thread ended while its warp waits for it";
    if (waiting == last - first)
        for (int t = first; t < last; t++) state[t] = READY;
    return nullptr;
}

// Threads of the block that all wait at one barrier go on.
static const char *release_block() {
    int waiting = 0, done = 0, line = -1;
    for (int t = 0; t < threads; t++) {
        waiting += state[t] == AT_BARRIER, done += state[t] == DONE;
        if (state[t] != AT_BARRIER) continue;
        if (line >= 0 && line != barrier_line[t]) return "threads wait at different barriers";
        line = barrier_line[t];
    }
    if (waiting < threads) return done ? "a thread ended before a barrier" : "a warp waits for ever";
    for (int t = 0; t < threads; t++) state[t] = READY;
    return nullptr;
}

// A warp with threads that can go on: the one before as a rule, so that it gets ahead of others.
static int next_warp(int before) {
    int found[MOST / 32], count = 0;
    for (int first = 0; first < threads; first += 32)
        for (int t = first; t < first + 32 && t < threads; t++)
            if (state[t] == READY) {
                if (first == before && draw(16)) return before;
                found[count++] = first;
                break;
            }
    return count ? found[draw(count)] : -1;
}

static const char *run_block() {
    static int order[MOST];
    for (int t = 0; t < threads; t++) {
        if (!stack[t]) stack[t] = (char *)malloc(STACK);
        getcontext(&fibre[t]);
        fibre[t].uc_stack.ss_sp = stack[t], fibre[t].uc_stack.ss_size = STACK;
        fibre[t].uc_link = nullptr;  // a fibre does not come to its end
        makecontext(&fibre[t], body, 0);
        state[t] = READY, begun[t] = false;
    }
    for (int warp = 0;;) {
        const char *wrong = nullptr;
        warp = next_warp(warp);
        if (warp < 0) {
            bool all_done = true;
            for (int t = 0; t < threads; t++) all_done &= state[t] == DONE;
            if (all_done) return nullptr;
            wrong = release_block();
        } else {
            int count = warp + 32 < threads ? 32 : threads - warp;
            shuffle(order, count);
            for (int i = 0; i < count; i++) {
                me = warp + order[i];
                if (state[me] != READY) continue;
                threadIdx = {me % blockDim.x, me / blockDim.x, 0};
                go_on();
            }
            wrong = release_warp(warp);
        }
        if (wrong) return wrong;
    }
}

static const char *run(void (*what)(void **), void **with, unsigned gx, unsigned gy, unsigned bx,
                       unsigned by, uint64_t seed) {
    kernel = what, arguments = with, random_state = seed * 0x9e3779b97f4a7c15u + 1;
    gridDim = {gx, gy, 1}, blockDim = {bx, by, 1}, threads = bx * by;
    if (threads > MOST) return "more than 1024 threads in a block";
    int blocks = gx * gy, *order = (int *)malloc(blocks * sizeof(int));
    shuffle(order, blocks);
    for (int i = 0; i < blocks; i++) {
        blockIdx = {order[i] % gx, order[i] / gx, 0};
        if (const char *wrong = run_block()) return free(order), wrong;
    }
    free(order);
    return nullptr;
}

template <typename T> T of_lane(T value, int lane, int line) {
    static_assert(sizeof(T) <= sizeof(double), "");
    memcpy(&slot[me], &value, sizeof(T));
    wait(IN_WARP, line);
    int there = me / 32 * 32 + lane;
    if (lane < 32 && there < threads) memcpy(&value, &slot[there], sizeof(T));
    wait(IN_WARP, line);
    return value;
}

}  // namespace emulator

#define __syncthreads() emulator::wait(emulator::AT_BARRIER, __LINE__)
#define __shfl_down_sync(mask, value, step) \
    emulator::of_lane(value, emulator::me % 32 + (step), __LINE__)
#define __shfl_xor_sync(mask, value, step) \
    emulator::of_lane(value, emulator::me % 32 ^ (step), __LINE__)
