"""The device "cuda": refused where there is none, and the same results where there is one.

With the fixture `cuda` a test runs on a stand-in for CuPy, and on a GPU where there is one. That
every primitive and function agrees on both devices is in test_primitives.py, test_functional.py.
"""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import minimono as mm
from minimono import backend, machine
from minimono.engine import functional as F
from minimono.engine.tensor import tensor
from minimono.gradcheck import check_grads


@pytest.fixture
def no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_cupy", None)
    monkeypatch.setitem(sys.modules, "cupy", None)  # so that importing it fails


@pytest.fixture
def cupy_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("cupy")
    module.cuda = SimpleNamespace(is_available=lambda: False)  # type: ignore[attr-defined]
    monkeypatch.setattr(backend, "_cupy", None)
    monkeypatch.setitem(sys.modules, "cupy", module)


def test_without_cupy(no_cupy: None) -> None:
    assert not backend.is_available()
    x = tensor([1.0])
    for ask in (lambda: tensor([1.0], device="cuda"), lambda: x.to("cuda"), backend.cupy):
        with pytest.raises(RuntimeError, match=r'needs cupy.*"cupy-cuda12x\[ctk\]".*device "cpu"'):
            ask()


def test_with_cupy_but_without_a_gpu(cupy_without_gpu: None) -> None:
    """Importing CuPy proves nothing: never a silent run on the CPU."""
    assert not backend.is_available()
    x = tensor([1.0])
    for ask in (lambda: tensor([1.0], device="cuda"), lambda: x.to("cuda")):
        with pytest.raises(RuntimeError, match=r'no usable GPU.*use device "cpu"'):
            ask()


@pytest.mark.parametrize("device", ["gpu", "cuda:0", "CPU", "", 0])
def test_unknown_devices(device: str) -> None:
    for ask in (lambda: tensor([1.0], device=device), lambda: tensor([1.0]).to(device)):
        with pytest.raises(ValueError, match=r'device is .*, expected "cpu" or "cuda"'):
            ask()


def test_there_and_back(cuda: str) -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    there = x.to(cuda)
    assert (x.device, there.device, there.to("cpu").device) == ("cpu", "cuda", "cpu")
    assert type(there.to("cpu").data) is np.ndarray
    assert 'device="cuda"' in repr(tensor([1.0], device=cuda))
    (there * there).sum().backward()  # the gradient of a leaf is where the leaf is
    assert type(x.grad) is np.ndarray
    assert x.grad.tolist() == [2.0, 4.0]
    y = tensor([1.0, 2.0], device=cuda, requires_grad=True)
    (y * y).sum().backward()
    (y.to("cpu") * 3.0).sum().backward()
    assert backend.device_of(y.grad) == "cuda"
    assert backend.to_host(y.grad).tolist() == [5.0, 7.0]


def test_mixing_devices_names_both(cuda: str) -> None:
    here, there = tensor(np.ones((2, 3))), tensor(np.ones(3), device=cuda)
    for mix in (
        lambda: here + there,
        lambda: there * here,
        lambda: there * np.ones(3),
        lambda: mm.engine.primitives.maximum(here, there),
        lambda: mm.engine.primitives.where(here > 0.0, there, 0.0),
        lambda: F.layer_norm(here, there, there),
    ):
        with pytest.raises((ValueError, TypeError), match=r"(?s)cpu.*cuda|cuda.*cpu"):
            mix()


def test_indices_and_masks_may_come_from_the_host(cuda: str) -> None:
    ids = np.array([2, 0, 2])
    w = tensor(np.arange(6.0).reshape(3, 2), device=cuda, requires_grad=True)
    F.embedding(ids, w).sum().backward()
    assert backend.to_host(w.grad).tolist() == [[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]
    assert F.cross_entropy(w, ids % 2).device == "cuda"
    q = tensor(np.ones((3, 2)), device=cuda)
    mask = np.tri(3, dtype=bool)
    for is_causal in (False, True):
        out = F.scaled_dot_product_attention(q, q, w, mask=mask, is_causal=is_causal)
        np.testing.assert_allclose(backend.to_host(out.data)[:, 0], [0.0, 1.0, 2.0], atol=1e-15)
    with pytest.raises(ValueError, match="nothing to look at"):
        F.scaled_dot_product_attention(q, q, w, mask=mask & (np.arange(3) > 0))
    with pytest.raises(ValueError, match="id 3 is outside"):
        F.embedding(tensor([3], device=cuda), w)


def test_reading_versions_run_there(cuda: str) -> None:
    """Also where values meet in one place, and of dtypes for which there is no kernel."""
    ids = np.array([2, 0, 2, 2, 0, 2, 2])
    for dtype in ("float16", "float64"):
        with mm.reference():
            grads = []
            for device in ("cpu", cuda):
                w = tensor(np.ones((3, 2)), dtype=dtype, device=device, requires_grad=True)
                g = tensor(np.arange(14.0).reshape(7, 2), dtype=dtype, device=device)
                (w[ids] * g).sum().backward()
                grads.append(backend.to_host(w.grad))
        np.testing.assert_array_equal(*grads)


def test_dropout_drops_the_same_on_both(cuda: str) -> None:
    host, device = (
        F.dropout(tensor(np.ones(50), device=d), 0.5, rng=np.random.default_rng(0))
        for d in ("cpu", cuda)
    )
    np.testing.assert_array_equal(host.data, backend.to_host(device.data))


def test_gradcheck_runs_there(cuda: str) -> None:
    x = tensor([[0.3, -1.0], [0.2, 2.0]], device=cuda)
    check_grads(lambda x: F.softmax(x) * x, x, order=2)


def test_arrays_of_two_devices_have_no_module(cuda: str) -> None:
    here, there = np.ones(2), backend.to_device(np.ones(3), cuda)
    assert backend.array_module(here, 1.0) is np
    assert backend.array_module(there, 1.0).__name__ == "cupy"
    with pytest.raises(ValueError, match=r"cpu \(2,\) and cuda \(3,\)"):
        backend.array_module(here, there)


def test_on_a_gpu_a_batch_has_one_part(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "threads", lambda: 3)

    def loss(model: mm.nn.Module, x: mm.Tensor, y: mm.Tensor) -> mm.Tensor:
        assert len(x) == 6
        return ((model(x) - y) ** 2.0).mean()

    model = mm.nn.Linear(3, 2, rng=np.random.default_rng(0), dtype=np.float64).to(cuda)
    batch = tensor(np.ones((6, 3)), device=cuda), tensor(np.zeros((6, 2)), device=cuda)
    expected = loss(model, *batch)
    expected.backward()
    once = backend.to_host(model.weight.grad)
    assert mm.nn.backward_in_parts(loss, model, batch) == pytest.approx(expected.item(), rel=1e-14)
    np.testing.assert_allclose(backend.to_host(model.weight.grad), 2.0 * once, rtol=1e-14)
