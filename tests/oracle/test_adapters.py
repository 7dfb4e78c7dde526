"""Arrays of other libraries: stand-ins here, PyTorch itself in the tests marked `parity`."""

import types
from typing import Any

import numpy as np
import pytest

from minimono import oracle, tensor
from minimono.oracle.adapters import BFLOAT16, to_numpy

EPS = 2.0**-52


class Torch:
    """Behaves as a PyTorch tensor does: __array__ refuses until all traps are out of the way."""

    def __init__(self, array: Any, *, grad: bool = False, conj: bool = False, sparse: bool = False,
                 cuda: bool = False, dtype: str | None = None) -> None:
        self.array, self.traps = array, {"grad": grad, "conj": conj, "sparse": sparse, "cuda": cuda}
        self.dtype = f"torch.{dtype or array.dtype}"
        self.layout = "torch.sparse_coo" if sparse else "torch.strided"

    def _without(self, trap: str) -> "Torch":
        return Torch(self.array, **{**self.traps, trap: False}, dtype=self.dtype[6:])

    def detach(self) -> "Torch":
        return self._without("grad")

    def resolve_conj(self) -> "Torch":
        return self._without("conj")

    def resolve_neg(self) -> "Torch":
        return self

    def to_dense(self) -> "Torch":
        return self._without("sparse")

    def cpu(self) -> "Torch":
        return self._without("cuda")

    def float(self) -> "Torch":
        return Torch(self.array.astype(np.float32), **self.traps)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        trapped = [name for name, on in self.traps.items() if on]
        if trapped or self.dtype == "torch.bfloat16":
            raise TypeError(f"can't convert: {trapped}, {self.dtype}")
        return self.array


@pytest.mark.parametrize("trap", ["grad", "conj", "sparse", "cuda"])
def test_traps_of_torch(trap: str) -> None:
    reply = to_numpy(Torch(np.array([1.5, 2.0]), **{trap: True}))
    assert reply.value.tolist() == [1.5, 2.0]
    assert (reply.eps, reply.dtype) == (EPS, "float64")


def test_bfloat16_has_eight_digits() -> None:
    reply = to_numpy(Torch(np.array([1.5]), grad=True, dtype="bfloat16"))
    assert (reply.value.tolist(), reply.eps, reply.dtype) == ([1.5], 2.0**-7, "bfloat16")
    assert BFLOAT16 == 2.0**-7


def test_bfloat16_of_jax() -> None:
    class Jax:
        dtype = "bfloat16"

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array([1.5], dtype=np.float32)

    assert to_numpy(Jax()).eps == 2.0**-7


def test_cupy() -> None:
    class Cupy:
        __cuda_array_interface__ = "as CuPy's arrays have it"

        def get(self) -> Any:
            return np.array([2.5])

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise TypeError("Implicit conversion to a NumPy array is not allowed")

    assert to_numpy(Cupy()).value.tolist() == [2.5]


def test_dlpack_alone() -> None:
    class Foreign:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    assert to_numpy(Foreign(np.array([1.0, 2.0]))).value.tolist() == [1.0, 2.0]


def test_an_array_that_cannot_be_read_is_a_failure_that_says_so() -> None:
    class Meta:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")

    report = oracle.check(lambda *_, compensation: Meta(), "scale", on_fail="collect")
    assert "Cannot copy out of meta tensor" in report.failures[0].message


@pytest.mark.parametrize(
    ("x", "value", "eps", "dtype"),
    [
        (True, True, 0.0, "bool"),
        (3, 3, 0.0, "int64"),
        (2**80, 2**80, 0.0, "object"),
        (-(2**63) - 1, -(2**63) - 1, 0.0, "object"),
        (0.5, 0.5, EPS, "float64"),
        (np.float64(0.25), 0.25, EPS, "float64"),
        (np.float32(0.5), 0.5, 2.0**-23, "float32"),
        (np.float16(0.5), 0.5, 2.0**-10, "float16"),
        (np.bool_(True), True, 0.0, "bool"),
        (np.uint8(200), 200, 0.0, "uint8"),
        (np.uint64(2**63 + 5), 2**63 + 5, 0.0, "uint64"),
        (np.array([2**80, 1], dtype=object), [2**80, 1], 0.0, "object"),
    ],
)
def test_numbers(x: Any, value: Any, eps: float, dtype: str) -> None:
    reply = to_numpy(x)
    assert reply.value.tolist() == value
    assert (reply.eps, reply.dtype) == (eps, dtype)


def test_long_doubles_are_held_to_float64() -> None:
    assert to_numpy(np.ones(2, dtype=np.longdouble)).eps == EPS


def test_tensors_of_minimono() -> None:
    assert to_numpy(tensor([1.0, 2.0], requires_grad=True)).value.tolist() == [1.0, 2.0]


def test_not_contiguous_and_read_only() -> None:
    array = np.arange(6.0).reshape(2, 3).T
    array.flags.writeable = False
    assert np.array_equal(to_numpy(array).value, array)


@pytest.fixture
def torch() -> types.ModuleType:
    return pytest.importorskip("torch")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Sparse")
def test_torch(torch: Any) -> None:
    x = torch.tensor([1.5, 0.0, -2.0], dtype=torch.float64)
    made = {
        "plain": x,
        "grad": x.clone().requires_grad_(),
        "not a leaf": x.clone().requires_grad_() * 1,
        "conj": torch.complex(x, x).conj().real,
        "neg": torch.complex(0 * x, -x).conj().imag,
        "coo": x.to_sparse(),
        "csr": x[None].to_sparse_csr(),
        "strided": torch.stack([x, x], dim=1)[:, 0],
        "parameter": torch.nn.Parameter(x),
    }
    for name, given in made.items():
        reply = to_numpy(given)
        assert reply.value.reshape(-1).tolist() == [1.5, 0.0, -2.0], name
        assert (reply.eps, reply.dtype) == (EPS, "float64"), name
    for dtype, eps in (torch.float32, 2.0**-23), (torch.float16, 2.0**-10), (torch.bfloat16, 2**-7):
        reply = to_numpy(x.to(dtype).requires_grad_())
        assert (reply.value.tolist(), reply.eps) == ([1.5, 0.0, -2.0], eps)
    assert to_numpy(x > 0).value.tolist() == [True, False, False]
    assert to_numpy(x.long()).dtype == "int64"
    with pytest.raises(TypeError, match="complex128, expected real numbers"):
        to_numpy(torch.complex(x, x).conj())


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_torch_in_the_run(torch: Any, dtype: Any) -> None:
    def my_scale(z: Any, mean: Any, variance: Any, *, compensation: float) -> Any:
        below = variance + compensation * variance.mean()
        return (z.requires_grad_() - mean) ** 2 / torch.where(below > 0, below, torch.nan)

    report = oracle.check(my_scale, "scale", convert=torch.from_numpy, dtype=dtype)
    assert len(report.passed) == 14
    meta = oracle.check(
        lambda *_, compensation: torch.ones(2, device="meta"), "scale", on_fail="collect"
    )
    assert "meta" in meta.failures[0].message
    halves = oracle.check(
        lambda *given, compensation: my_scale(*given, compensation=compensation).bfloat16(),
        "scale", convert=torch.from_numpy, dtype=dtype,
    )
    assert "returned bfloat16" in halves.notes[0]
