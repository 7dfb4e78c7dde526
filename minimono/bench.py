"""How fast is it? Training steps beside other libraries, and the metrics beside the memory.

`minimono bench` runs everything interleaved in one process: in each round every contender takes a
few steps, in changing order, and is compared with PyTorch in that round. So a busy machine slows
all of them, and the ratios stay. Every library gets one thread, the same first weights and the same
data, and has to report the same first loss before it is timed.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import numpy as np

from minimono import kernels, mono, nn, threads
from minimono.backend import Array
from minimono.engine import functional as F
from minimono.engine.tensor import Tensor
from minimono.nn import models, optim

Step = Callable[[], float]  # one training step; returns the loss before it
LEARNING_RATE, VOCABULARY, CLASSES = 1e-3, 96, 10


@dataclass(frozen=True)
class Net:
    """A network and its batch: an MLP if it has widths, else a GPT."""

    name: str
    batch: int
    widths: tuple[int, ...] = ()
    layers: int = 0
    channels: int = 0
    heads: int = 0
    context: int = 0

    def model(self) -> nn.Module:
        rng = np.random.default_rng(0)
        if self.widths:
            return models.MLP(self.widths, rng=rng)
        return models.GPT(
            vocabulary=VOCABULARY, context=self.context, channels=self.channels, heads=self.heads,
            layers=self.layers, rng=rng,
        )  # fmt: skip

    def data(self) -> tuple[Array, Array]:
        rng = np.random.default_rng(1)
        if self.widths:
            x = rng.standard_normal((self.batch, self.widths[0])).astype(np.float32)
            return x, rng.integers(0, CLASSES, self.batch)
        ids = rng.integers(0, VOCABULARY, (self.batch, self.context + 1))
        return ids[:, :-1], ids[:, 1:]


SMALL_MLP = Net("MLP 64-128-128-10, batch 64", 64, widths=(64, 128, 128, CLASSES))
LARGE_MLP = Net("MLP 784-1024-1024-10, batch 256", 256, widths=(784, 1024, 1024, CLASSES))
SMALL_GPT = Net("GPT 2 x 128, context 128, batch 16", 16, (), 2, 128, 4, 128)
MIDDLE_GPT = Net("GPT 4 x 256, context 256, batch 8", 8, (), 4, 256, 8, 256)
NETS = (SMALL_MLP, LARGE_MLP, SMALL_GPT, MIDDLE_GPT)


# ---- the contenders ------------------------------------------------------------------------------


def minimono_step(net: Net) -> Step:
    model, (x, targets) = net.model(), net.data()
    return _step_of(model, x, targets)


def _step_of(model: nn.Module, x: Array, targets: Array) -> Step:
    optimiser = optim.Adam(model.parameters(), LEARNING_RATE)
    inputs = Tensor(x) if x.dtype.kind == "f" else x

    def step() -> float:
        loss = F.cross_entropy(model(inputs), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.data)

    return step


def reading_step(net: Net) -> Step:
    running = minimono_step(net)

    def step() -> float:
        with kernels.reference():
            return running()

    return step


def network(xp: Any, w: dict[str, Any], net: Net, x: Any, softmax: Callable[[Any], Any]) -> Any:
    """The same networks in NumPy's functions, for libraries that have them: logits."""
    if net.widths:
        for i in range(len(net.widths) - 2):
            layer = f"hidden.{i}.linear"
            x = xp.maximum(x @ w[f"{layer}.weight"].T + w[f"{layer}.bias"], 0.0)
        return x @ w["out.weight"].T + w["out.bias"]

    def norm(x: Any, name: str) -> Any:
        d = x - xp.mean(x, axis=-1, keepdims=True)
        variance = xp.mean(d * d, axis=-1, keepdims=True)
        return d / xp.sqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Any, name: str) -> Any:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    (B, T), H, D = x.shape, net.heads, net.channels // net.heads
    hidden = np.triu(np.full((T, T), -1e9, np.float32), 1)
    x = w["token.weight"][x] + w["position.weight"][:T]
    for i in range(net.layers):
        block = f"block.{i}"
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attention.qkv")
        qkv = xp.transpose(xp.reshape(qkv, (B, T, 3, H, D)), (2, 0, 3, 1, 4))  # (3, B, H, T, D)
        scores = qkv[0] @ xp.swapaxes(qkv[1], -1, -2) * np.float32(D**-0.5) + hidden
        mixed = xp.transpose(softmax(scores) @ qkv[2], (0, 2, 1, 3))  # (B, T, H, D)
        x = x + linear(xp.reshape(mixed, (B, T, H * D)), f"{block}.attention.out")
        up = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.up")
        bent = np.float32((2 / np.pi) ** 0.5) * (up + np.float32(0.044715) * up * up * up)
        x = x + linear(np.float32(0.5) * up * (1 + xp.tanh(bent)), f"{block}.mlp.down")
    return norm(x, "norm") @ w["token.weight"].T


def loss_by(xp: Any) -> Callable[..., Any]:
    def softmax(x: Any) -> Any:
        e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
        return e / xp.sum(e, axis=-1, keepdims=True)

    def loss(w: dict[str, Any], net: Net, x: Any, targets: Array) -> Any:
        logits = xp.reshape(network(xp, w, net, x, softmax), (targets.size, -1))
        shifted = logits - xp.max(logits, axis=-1, keepdims=True)
        log_sum = xp.log(xp.sum(xp.exp(shifted), axis=-1))
        return xp.mean(log_sum - shifted[np.arange(targets.size), targets.reshape(-1)])

    return loss


def adam_of(w: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Adam in NumPy, for libraries without optimisers; changes w in place."""
    first, second = ({n: np.zeros_like(v) for n, v in w.items()} for _ in range(2))
    t = 0

    def update(gradients: dict[str, Any]) -> None:
        nonlocal t
        t += 1
        rate = np.float32(LEARNING_RATE * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t))
        for name, g in gradients.items():
            first[name] += np.float32(0.1) * (g - first[name])
            second[name] += np.float32(0.001) * (g * g - second[name])
            w[name] -= rate * first[name] / (np.sqrt(second[name]) + np.float32(1e-8))

    return update


def numpy_step(net: Net) -> Step:
    """By hand, for the MLPs: forward, backward and Adam in plain NumPy."""
    if not net.widths:
        raise NotImplementedError("only for MLPs")
    w, (x, targets) = _weights(net), net.data()
    names = [f"hidden.{i}.linear" for i in range(len(net.widths) - 2)] + ["out"]
    update, rows = adam_of(w), np.arange(len(targets))

    def step() -> float:
        inputs = [x]
        for name in names[:-1]:
            z = inputs[-1] @ w[f"{name}.weight"].T + w[f"{name}.bias"]
            inputs.append(np.maximum(z, 0.0))
        logits = inputs[-1] @ w["out.weight"].T + w["out.bias"]
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        loss = float(-np.log(p[rows, targets]).mean())
        p[rows, targets] -= 1
        g, gradients = p / np.float32(len(targets)), {}
        for name, a in zip(reversed(names), reversed(inputs), strict=True):
            gradients[f"{name}.weight"], gradients[f"{name}.bias"] = g.T @ a, g.sum(axis=0)
            g = (g @ w[f"{name}.weight"]) * (a > 0)
        update(gradients)
        return loss

    return step


def torch_step(net: Net, *, fused: bool = False, compiled: bool = False) -> Step:
    torch = import_module("torch")
    f = torch.nn.functional
    torch.set_num_threads(1)
    w = {n: torch.tensor(v, requires_grad=True) for n, v in _weights(net).items()}
    x, targets = (torch.tensor(a) for a in net.data())
    optimiser = torch.optim.Adam(w.values(), LEARNING_RATE, **({"fused": True} if fused else {}))

    def linear(x: Any, name: str) -> Any:
        return f.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: Any, name: str) -> Any:
        return f.layer_norm(x, (net.channels,), w[f"{name}.weight"], w[f"{name}.bias"])

    def forward(x: Any) -> Any:
        if net.widths:
            for i in range(len(net.widths) - 2):
                x = f.relu(linear(x, f"hidden.{i}.linear"))
            return f.cross_entropy(linear(x, "out"), targets)
        B, T = x.shape
        x = f.embedding(x, w["token.weight"]) + w["position.weight"][:T]
        for i in range(net.layers):
            block = f"block.{i}"
            qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attention.qkv")
            q, k, v = (
                part.reshape(B, T, net.heads, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1)
            )
            mixed = f.scaled_dot_product_attention(q, k, v, is_causal=True)
            mixed = mixed.transpose(1, 2).reshape(B, T, net.channels)
            x = x + linear(mixed, f"{block}.attention.out")
            up = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.up")
            x = x + linear(f.gelu(up, approximate="tanh"), f"{block}.mlp.down")
        logits = norm(x, "norm") @ w["token.weight"].T
        return f.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1))

    forward = torch.compile(forward) if compiled else forward

    def step() -> float:
        loss = forward(x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def jax_step(net: Net) -> Step:
    jax = import_module("jax")
    jnp = import_module("jax.numpy")
    loss = loss_by(jnp)
    w = {n: jnp.asarray(v) for n, v in _weights(net).items()}
    state = {n: (jnp.zeros_like(v), jnp.zeros_like(v)) for n, v in w.items()}
    x, targets = net.data()

    def one_step(w: Any, state: Any, t: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(w, net, x, targets)
        rate = LEARNING_RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        new, moments = {}, {}
        for name, g in gradients.items():
            first, second = state[name]
            first, second = first + 0.1 * (g - first), second + 0.001 * (g * g - second)
            new[name] = w[name] - rate * first / (jnp.sqrt(second) + 1e-8)
            moments[name] = first, second
        return value, new, moments

    jitted, t = jax.jit(one_step, donate_argnums=(0, 1)), 0

    def step() -> float:
        nonlocal w, state, t
        t += 1
        value, w, state = jitted(w, state, float(t))
        return float(value)

    return step


def autograd_step(net: Net) -> Step:
    differentiate = import_module("autograd").value_and_grad
    loss = loss_by(import_module("autograd.numpy"))
    w, (x, targets) = _weights(net), net.data()
    update, of_loss = adam_of(w), differentiate(lambda w: loss(w, net, x, targets))

    def step() -> float:
        value, gradients = of_loss(w)
        update(gradients)
        return float(value)

    return step


def _weights(net: Net) -> dict[str, Array]:
    return {name: p.data.copy() for name, p in net.model().named_parameters()}


CONTENDERS: dict[str, tuple[str | None, Callable[[Net], Step]]] = {  # name: package, maker
    "minimono": (None, minimono_step),
    "minimono, reading versions": (None, reading_step),
    "NumPy by hand": (None, numpy_step),
    "PyTorch": ("torch", torch_step),
    "PyTorch, fused Adam": ("torch", lambda net: torch_step(net, fused=True)),
    "torch.compile": ("torch", lambda net: torch_step(net, fused=True, compiled=True)),
    "JAX, jit": ("jax", jax_step),
    "HIPS autograd": ("autograd", autograd_step),
}


# ---- measuring -----------------------------------------------------------------------------------


def seconds_per_call(call: Callable[[], Any], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls


def interleaved(
    steps: dict[str, Callable[[], Any]], *, rounds: int, seconds: float
) -> dict[str, Array]:
    """Seconds a call in each round, (rounds,), every contender having its turn in each."""
    calls = {n: max(1, round(seconds / seconds_per_call(step, 2))) for n, step in steps.items()}
    rng, times = np.random.default_rng(0), {name: np.empty(rounds) for name in steps}
    for number in range(rounds):
        for name in rng.permutation(list(steps)):
            times[name][number] = seconds_per_call(steps[name], calls[name])
    return times


def ratios(times: dict[str, Array], base: str) -> dict[str, Array]:
    """Median and quartiles of the paired ratios to `base`."""
    return {n: np.percentile(t / times[base], [25, 50, 75]) for n, t in times.items()}


def training(net: Net, *, rounds: int, seconds: float, slow: bool) -> Iterator[str]:
    """Lines of a table: each contender's time, and its ratio to PyTorch (else to minimono)."""
    steps: dict[str, Callable[[], Any]] = {}
    first: dict[str, float] = {}
    for name, (package, make) in CONTENDERS.items():
        if package is not None and find_spec(package) is None:
            continue
        if name in ("minimono, reading versions", "torch.compile", "HIPS autograd") and not slow:
            continue
        try:
            step = make(net)
        except NotImplementedError:
            continue
        first[name] = step()
        steps[name] = step
        for _ in range(2):
            step()
    ours = first["minimono"]
    for name, loss in first.items():
        if abs(loss - ours) > 1e-4 * abs(loss):
            raise RuntimeError(f"{net.name}: {name} starts at loss {loss}, minimono at {ours}")
    base = "PyTorch" if "PyTorch" in steps else "minimono"
    times = interleaved(steps, rounds=rounds, seconds=seconds)
    for name, (low, middle, high) in ratios(times, base).items():
        yield (
            f"| {name} | {1e3 * np.median(times[name]):.3g} ms | {middle:.2f} | "
            f"{low:.2f} to {high:.2f} |"
        )


def limits() -> dict[str, float]:
    """What the machine can do with one thread, measured now: the best of several."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((1024, 1024)).astype(np.float32) for _ in range(2))
    long = np.ones(2**26, np.float32)  # 256 MB, far more than any cache
    other = np.empty_like(long)
    product = min(seconds_per_call(lambda: a @ b, 3) for _ in range(5))
    read = min(seconds_per_call(lambda: long @ long, 1) for _ in range(5))
    copy = min(seconds_per_call(lambda: np.copyto(other, long), 1) for _ in range(5))
    return {
        "float32 matrix product, GFLOP/s": 2 * 1024**3 / product / 1e9,
        "reading memory, GB/s": long.nbytes / read / 1e9,
        "copying memory, GB/s read and written": 2 * long.nbytes / copy / 1e9,
    }


def metrics(*, rounds: int, samples: int) -> Iterator[str]:
    """Lines of a table: the metrics of a batch beside reading it once."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((samples, 1536)).astype(np.float32)
    flat, history = z.reshape(-1), mono.Moments.of(z[: samples // 2])
    mean, variance = history.mean, history.variance()
    calls: dict[str, Callable[[], Any]] = {
        "reading it once": lambda: flat @ flat,
        "`Moments.update`": lambda: history.update(z),
        "`score_batch`: reductions and moments": lambda: mono.score_batch(z, history),
        "`score_batch` with the top 1 of each sample": lambda: mono.score_batch(
            z, history, top_k=1
        ),
        "`monosemantic_scale`: phi written": lambda: mono.monosemantic_scale(z, mean, variance),
        "NumPy: phi, its maximum, mean and variance": lambda: _by_numpy(z, mean, variance),
    }
    for call in calls.values():
        call()
    times = interleaved(calls, rounds=rounds, seconds=0.0)
    for name, (low, middle, high) in ratios(times, "reading it once").items():
        yield (
            f"| {name} | {1e3 * np.median(times[name]):.3g} ms | {middle:.2f} | "
            f"{low:.2f} to {high:.2f} | {100 / middle:.0f} % |"
        )


def _by_numpy(z: Array, mean: Array, variance: Array) -> Any:
    phi = (z - mean) ** 2 / variance
    return phi.max(axis=0), z.mean(axis=0, dtype=np.float64), z.var(axis=0, dtype=np.float64)


def inhibition(net: Net, *, rounds: int, seconds: float) -> str:
    """What MEmeL in half of the blocks adds to a training step."""
    x, targets = net.data()
    plain, treated = net.model(), net.model()
    middle = range(net.layers // 4, net.layers // 4 + max(net.layers // 2, 1))
    for block in middle:
        nn.taps.insert(treated, f"block.{block}.mlp.act", mono.MEmeL(start_after=1))
    steps = {"plain": _step_of(plain, x, targets), "MEmeL": _step_of(treated, x, targets)}
    for step in steps.values():
        for _ in range(3):
            step()
    times = interleaved(steps, rounds=rounds, seconds=seconds)
    low, median, high = ratios(times, "plain")["MEmeL"]
    return (
        f"MEmeL in {len(middle)} of {net.layers} blocks ({net.name}): a step takes {median:.3f} of "
        f"a plain one ({low:.3f} to {high:.3f})."
    )


def curves(*, largest: int) -> Iterator[str]:
    """Lines of a table: how the cost grows with the work, as the slope of log time."""

    def step_of(net: Net) -> Callable[[], Any]:
        return minimono_step(net)

    def scored(samples: int, neurons: int) -> Callable[[], Any]:
        z = np.random.default_rng(0).standard_normal((samples, neurons)).astype(np.float32)
        history = mono.Moments.of(z)
        return lambda: mono.score_batch(z, history)

    sizes = [2**i for i in range(largest)]
    plans: dict[str, list[tuple[int, Callable[[], Any]]]] = {
        "MLP step, batch": [
            (64 * n, step_of(Net("", 64 * n, (256, 512, 512, CLASSES)))) for n in sizes
        ],
        "MLP step, width": [
            (128 * n, step_of(Net("", 128, (128 * n, 128 * n, 128 * n, CLASSES)))) for n in sizes
        ],
        "MLP step, depth": [
            (2 * n, step_of(Net("", 128, (256,) * (2 * n) + (CLASSES,)))) for n in sizes
        ],
        "GPT step, context": [
            (32 * n, step_of(Net("", 4, (), 2, 64, 4, 32 * n))) for n in sizes
        ],
        "`score_batch`, samples": [(2**11 * n, scored(2**11 * n, 512)) for n in sizes],
        "`score_batch`, neurons": [(256 * n, scored(2**12, 256 * n)) for n in sizes],
    }
    for name, points in plans.items():
        for _, call in points:
            call()
        times = [min(seconds_per_call(call, 1) for _ in range(7)) for _, call in points]
        n = np.array([size for size, _ in points], dtype=np.float64)
        slope = np.polyfit(np.log(n), np.log(times), 1)[0]
        yield f"| {name} | {n[0]:.0f} to {n[-1]:.0f} | {slope:.2f} |"


def imports() -> Iterator[str]:
    """Lines of a table: the time to import, in a process of its own, the best of five."""
    for name in ("minimono", "minimono.nn, minimono.mono", "numpy"):
        code = f"from time import perf_counter as t; s = t(); import {name}; print(t() - s)"
        command = [sys.executable, "-c", code]
        times = [
            float(subprocess.run(command, capture_output=True, check=True).stdout)
            for _ in range(5)
        ]
        yield f"| `import {name}` | {1e3 * min(times):.0f} ms |"


def peak_memory() -> Iterator[str]:
    """Lines of a table: the peak memory of five GPT steps, above what the imports take."""
    for library in ("minimono", "torch"):
        if library == "torch" and find_spec("torch") is None:
            continue
        code = (
            "import resource, minimono.bench as b\n"
            f"step = b.{library}_step\n"
            f"{'import torch' if library == 'torch' else ''}\n"
            "for _ in range(2): step(b.SMALL_MLP)()\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "step = step(b.MIDDLE_GPT)\n"
            "for _ in range(5): step()\n"
            "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        yield f"| {'PyTorch' if library == 'torch' else library} | {float(run.stdout):.0f} MB |"


# ---- the page ------------------------------------------------------------------------------------


def page(*, quick: bool = False) -> Iterator[str]:
    """The page, line by line, as it is measured."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    threads.set_num_threads(1)
    rounds, seconds = (5, 0.05) if quick else (15, 0.4)
    yield "# Performance\n"
    yield (
        f"Written by `minimono bench{' --quick' if quick else ''}` on {datetime.date.today()}: "
        f"{_machine()}. One thread for every library, float32. Times are medians over {rounds} "
        "rounds, in which all contenders take turns; ratios are medians of the ratios within a "
        "round, with their quartiles. Times of one machine do not carry over to another; ratios "
        "may.\n"
    )
    yield "## What the machine can do\n\n| limit | measured |\n|---|---:|"
    for name, value in limits().items():
        yield f"| {name} | {value:.1f} |"
    yield (
        "\n## A training step\n\nForward, backward and Adam, from the same first weights on the "
        "same batch. The ratio is to PyTorch's eager mode with its default optimiser; below 1 is "
        "faster."
    )
    for net in NETS[: 3 if quick else None]:
        yield f"\n### {net.name}\n\n| | a step | ratio | quartiles |\n|---|---:|---:|---|"
        yield from training(net, rounds=rounds, seconds=seconds, slow=not quick)
    yield (
        "\n## The metrics\n\nOne batch of 1,536 neurons, float32 in, float64 accumulators. The "
        "last column is the share of the speed at which memory can be read at all.\n\n"
        "| | time | ratio | quartiles | of reading |\n|---|---:|---:|---|---:|"
    )
    yield from metrics(rounds=rounds, samples=2**13 if quick else 2**15)
    yield "\n## What inhibition costs\n"
    yield inhibition(SMALL_GPT if quick else MIDDLE_GPT, rounds=rounds, seconds=seconds)
    if not quick:
        yield (
            "\n## Memory\n\nPeak of five steps of the larger GPT, above what the process had "
            "before.\n\n| | peak |\n|---|---:|"
        )
        yield from peak_memory()
    yield (
        "\n## How the cost grows\n\nThe slope of log time by log size: 1 is proportional, 0 is "
        "free, 2 is squared.\n\n| | sizes | slope |\n|---|---|---:|"
    )
    yield from curves(largest=3 if quick else 5)
    yield "\n## Importing\n\n| | time |\n|---|---:|"
    yield from imports()


def _machine() -> str:
    packages = ["numpy", "numba", *(p for p in ("torch", "jax", "autograd") if find_spec(p))]
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in packages)
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = {line.split(":")[1].strip() for line in file if line.startswith("model name")}
        processor = ", ".join(names) or processor
    except OSError:  # not Linux
        pass
    return f"{processor}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"
