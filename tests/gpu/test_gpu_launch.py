"""What needs neither CuPy nor a compiler: names and parameter lists, and that launches fit them."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from minimono.engine import convolution as convolution_of_tensors
from minimono.engine import functional
from minimono.engine.fused import Fused
from minimono.kernels.gpu import (
    activations,
    attention,
    convolution,
    dropout,
    embedding,
    gru,
    launch,
    losses,
    norms,
    optim,
    pooling,
    scale,
    softmax,
)
from minimono.kernels.gpu.launch import SCALARS, Kernel
from minimono.nn import convolution as cells

FOLDER = Path(str(launch.__file__)).parent
PARTS = sorted(f.stem for f in FOLDER.glob("*.py") if f.stem not in ("__init__", "launch"))
MODULES = [import_module(f"minimono.kernels.gpu.{part}") for part in PARTS]


def kernels_of(module: ModuleType) -> list[Kernel]:
    return [k for k in vars(module).values() if isinstance(k, Kernel)]


KERNELS = [k for module in MODULES for k in kernels_of(module)]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_sources(kernel: Kernel) -> None:
    for declared in kernel.parameters:
        assert re.fullmatch(r"(const )?(real|double|long long|bool) \*\w+|[a-z ]+ \w+", declared)
        kind = declared.removeprefix("const ").rpartition(" ")[0]
        assert kind in SCALARS or kind == "real", declared
    code = kernel.code("f", D=4)
    assert code.startswith("typedef float real;\n#define D 4\n")
    for brackets in ("()", "[]", "{}"):
        assert code.count(brackets[0]) == code.count(brackets[1])


def test_names_are_different() -> None:
    assert len({k.name for k in KERNELS}) == len(KERNELS) > 20


def call_of(function) -> list[tuple[str, object, object]]:
    """Its parameters; what a backward pass calls that which was kept is its own affair."""
    found = [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]
    if function.__name__.endswith("_backward"):
        found[3] = ("kept", *found[3][1:])
    return found


FUSED = [
    f for m in (functional, convolution_of_tensors, cells) for f in vars(m).values()
    if isinstance(f, Fused)
]
METRICS = {
    "moments": ["merge"], "scale": ["batch_moments", "scale", "survey", "merge"],
    "pairs": ["weighted_cosine", "mean_distance"],
    "selection": [],  # different ways on the two devices, which `scale` calls
}


@pytest.mark.parametrize("part", PARTS)
def test_names_and_signatures_of_the_cpu(part: str) -> None:
    """What the engine and the metrics call there, they can call here."""
    here, there = (import_module(f"minimono.kernels.{device}.{part}") for device in ("gpu", "cpu"))
    shared = [
        f"{f.name.lstrip('_')}_{way}" for f in FUSED if f.part == part and "cuda" in f.devices
        for way in ("forward", "backward")
    ]
    if part in METRICS:
        shared = METRICS[part]
    if part == "optim":
        assert {n for n in vars(there) if n.endswith("_kernel")} <= set(vars(here))
        shared = ["adam", "sgd", "sgd_momentum", "joint_norm", "scaled"]
    assert shared or part == "selection"
    for name in shared:
        assert call_of(getattr(here, name)) == call_of(getattr(there, name)), name


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that would have run, so far."""
    names: list[str] = []

    def compiled(code: str, name: str):
        def start(blocks, threads, arguments) -> None:
            assert np.prod(threads) <= launch.LARGEST_BLOCK
            assert all(1 <= n < 2**31 for n in blocks)
            assert all(n < 2**16 for n in blocks[1:])  # what CUDA allows
            assert all(isinstance(a, np.ndarray | np.generic) for a in arguments)
            names.append(name)

        return start

    monkeypatch.setattr(launch, "compiled", compiled)
    monkeypatch.setattr(np, "empty", np.zeros)  # nothing is computed: nothing warns
    return names


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_launch_fits_its_kernel(launched: list[str], dtype) -> None:
    x, weight, ids = np.ones((4, 6), dtype), np.ones(6, dtype), np.array([0, 2, 1, 2])
    x = x.T.copy().T  # with gaps
    keep, g, needed = x > 0, np.ones((), dtype), (True, True, True)
    for forward, backward, arguments in (
        (activations.relu_forward, activations.relu_backward, (x,)),
        (activations.leaky_relu_forward, activations.leaky_relu_backward, (x, 0.2)),
        (activations.sigmoid_forward, activations.sigmoid_backward, (x,)),
        (activations.silu_forward, activations.silu_backward, (x,)),
        (activations.gelu_forward, activations.gelu_backward, (x, "none")),
        (activations.gelu_forward, activations.gelu_backward, (x, "tanh")),
        (softmax.softmax_forward, softmax.softmax_backward, (x, 0)),
        (softmax.log_softmax_forward, softmax.log_softmax_backward, (x, 0)),
        (norms.layer_norm_forward, norms.layer_norm_backward, (x, weight, weight)),
        (norms.rms_norm_forward, norms.rms_norm_backward, (x, weight)),
        (embedding.rows_by_number_forward, embedding.rows_by_number_backward, (x, ids)),
        (dropout.dropped_forward, dropout.dropped_backward, (x, keep, 2.0)),
    ):
        out, kept = forward(*arguments)
        backward(needed, out, out, kept, *arguments)
    out, kept = losses.mean_cross_entropy_forward(x, ids)
    assert out.shape == ()
    losses.mean_cross_entropy_backward(needed, g, out, kept, x, ids)
    optim.update(optim.adam_kernel, [weight.copy() for _ in range(4)], (0.5,) * 8)
    optim.update(optim.sgd_kernel, [weight, weight.copy()], (0.5,) * 2)
    optim.update(optim.sgd_momentum_kernel, [weight.copy() for _ in range(3)], (0.5,) * 3)
    optim.sum_of_squares(x)
    qkv = np.ones((2, 3, 3, 2, 4), dtype)
    for visible in (None, np.ones((2, 3), bool)):
        out, kept = attention.packed_attention_forward(qkv, visible, True)
        attention.packed_attention_backward(needed, out, out, kept, qkv, visible, True)
    image, kernels = np.ones((2, 3, 4, 5), dtype), np.ones((3, 3, 2, 2), dtype)
    for forward, backward in (
        (convolution.convolved_forward, convolution.convolved_backward),
        (convolution.laid_down_forward, convolution.laid_down_backward),
    ):
        out, kept = forward(image, kernels, None, (1, 2), (1, 0))
        backward(needed, out, out, kept, image, kernels, None, (1, 2), (1, 0))
    out, kept = pooling.largest_in_windows_forward(image, (2, 3), (1, 2), (1, 0))
    pooling.largest_in_windows_backward(needed, out, out, kept, image, (2, 3), (1, 2), (1, 0))
    for from_input in (image, None):
        out, kept = gru.memory_and_update_forward(from_input, image, 0.2)
        gru.memory_and_update_backward(needed, out, out, kept, from_input, image, 0.2)
    update, memory = out
    out, kept = gru.new_state_forward(update, memory, update)
    gru.new_state_backward(needed, out, out, kept, update, memory, update)
    z, mean = np.ones((5, 3, 2), dtype), np.ones((3, 2))
    scale.batch_moments(z)
    asked = {"k": 2, "threshold": 1.0, "extremes": True, "keep_phi": True, "flag": True}
    scale.survey(z, mean, mean, **asked)
    scale.scale(z, mean, mean)
    scale.merge(mean, mean, mean, mean, 2 / 3, 2 / 3)
    missing = {k.name for k in KERNELS} - set(launched)
    assert not missing, f"kernels in kernels/gpu/ that this test has to launch: {sorted(missing)}"


def test_grids_fit_for_many_heads_and_many_rows(launched: list[str]) -> None:
    """CUDA has room for 65,535 blocks along a grid's second axis."""
    qkv, needed = np.ones((2**14, 1, 3, 4, 1), np.float32), (True, True, True)
    out, kept = attention.packed_attention_forward(qkv, None, True)
    attention.packed_attention_backward(needed, out, out, kept, qkv, None, True)
    x, weight = np.ones((2**24, 1), np.float32), np.ones(1, np.float32)
    out, kept = norms.layer_norm_forward(x, weight, weight)
    norms.layer_norm_backward(needed, out, out, kept, x, weight, weight)
    z = np.ones((2**16, 1), np.float32)
    scale.survey(z, np.ones(1), np.ones(1), k=1, threshold=1.0, flag=True)
    assert len(set(launched)) > 8


def test_arguments_that_do_not_fit_are_refused(launched: list[str]) -> None:
    x = np.ones((3, 4), np.float32)
    threads = launch.for_each(12)
    with pytest.raises(TypeError, match=r"relu: arguments are 2, expected 3: const real \*x, real"):
        activations.relu_kernel(np.float32, *threads, x, 12)
    with pytest.raises(TypeError, match=r"relu: real \*out has float64 \(3, 4\), expected float32"):
        activations.relu_kernel(np.float32, *threads, x, x.astype(float), 12)
    with pytest.raises(TypeError, match=r"relu: const real \*x has float32 \(4, 3\) with gaps"):
        activations.relu_kernel(np.float32, *threads, x.T, x, 12)
    assert not launched


def test_nothing_is_launched_for_no_elements(launched: list[str]) -> None:
    out, _ = activations.gelu_forward(np.zeros((0, 4)))
    assert out.shape == (0, 4)
    assert not launched


def test_rows_get_whole_warps() -> None:
    threads = [launch.for_rows(1, length)[1][0] for length in (1, 128, 129, 768, 10**6)]
    assert threads == [32, 32, 64, 256, 1024]
