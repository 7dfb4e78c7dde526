"""Settings of layers, models and data: a seed wherever a generator may be, sizes that are sizes.

The first test walks all public names, so a new function with an `rng` has to come here.
"""

import inspect
from collections.abc import Callable, Iterator
from itertools import islice
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import nn
from minimono.data import World
from minimono.engine import functional as F
from minimono.nn import Module

WORLD = World(np.eye(4), 0.3, noise=0.5)
IMAGES, LABELS = np.arange(40.0).reshape(10, 1, 2, 2), np.arange(10)


def a_few(batches: Iterator[Any]) -> list[Any]:
    return list(islice(batches, 3))


# Every public function and class that takes an `rng`, in use.
TAKES_RNG: dict[str, Callable[[Any], Any]] = {
    "check_grads": lambda rng: mm.gradcheck.check_grads(lambda x: x * x, np.ones(2), rng=rng),
    "dropout": lambda rng: F.dropout(mm.tensor(np.ones(99)), 0.5, rng=rng),
    "Linear": lambda rng: nn.Linear(3, 2, rng=rng),
    "Embedding": lambda rng: nn.Embedding(3, 2, rng=rng),
    "Dropout": lambda rng: nn.Dropout(0.5, rng=rng)(mm.tensor(np.ones(99))),
    "MultiHeadAttention": lambda rng: nn.MultiHeadAttention(4, 2, rng=rng),
    "FeedForward": lambda rng: nn.FeedForward(4, 8, rng=rng, activation="relu"),
    "Conv2d": lambda rng: nn.Conv2d(2, 3, 3, rng=rng),
    "ConvTranspose2d": lambda rng: nn.ConvTranspose2d(2, 3, 3, rng=rng),
    "ConvGRUCell": lambda rng: nn.ConvGRUCell(2, 3, rng=rng),
    "MLP": lambda rng: mm.models.MLP((3, 4, 2), rng=rng),
    "GPT": lambda rng: mm.models.GPT(
        vocabulary=5, context=4, channels=4, heads=2, layers=2, dropout=0.1, rng=rng),
    "BERT": lambda rng: mm.models.BERT(
        vocabulary=5, context=4, channels=4, heads=2, layers=2, classes=2, rng=rng),
    "Llama": lambda rng: mm.models.Llama(
        vocabulary=5, context=4, channels=4, heads=2, layers=2, hidden=3, rng=rng),
    "GPTNeoX": lambda rng: mm.models.GPTNeoX(
        vocabulary=5, context=4, channels=16, heads=2, layers=2, hidden=3, rng=rng),
    "PlainViT": lambda rng: mm.models.PlainViT(
        image=(1, 4, 4), patch=2, channels=4, heads=2, layers=2, hidden=3, classes=2, rng=rng),
    "ConvNet": lambda rng: mm.models.ConvNet(image=(1, 4, 4), channels=(2, 3), classes=2, rng=rng),
    "ConvGRU": lambda rng: mm.models.ConvGRU(channels=(2, 3), strides=(2, 1), rng=rng),
    "ViT": lambda rng: mm.models.ViT(
        image=(1, 4, 4), patch=1, window=2, channels=4, heads=2, layers=2, classes=2, rng=rng),
    "random_batches": lambda rng: a_few(
        mm.data.random_batches(np.arange(99), batch=4, context=5, rng=rng)),
    "image_batches": lambda rng: a_few(mm.data.image_batches(IMAGES, LABELS, batch=4, rng=rng)),
    "shuffled_split": lambda rng: mm.data.shuffled_split(IMAGES, LABELS, rng=rng),
    "simulate_rain": lambda rng: mm.data.simulate_rain(2, size=4, frames=3, rng=rng),
    "rain_batches": lambda rng: a_few(
        mm.data.rain_batches(batch=2, size=4, frames_in=2, frames_out=1, rng=rng)),
    "World.sample": lambda rng: WORLD.sample(5, rng=rng),
    "World.amounts": lambda rng: WORLD.amounts(5, rng=rng),
    "Hierarchy.gated": lambda rng: mm.data.Hierarchy(np.array([-1, 0, 0, 0]), exclusive=True).gated(
        np.ones((9, 4)), 1.0, rng=rng),
    "low_rank_correlation": lambda rng: mm.data.low_rank_correlation(4, 2, rng=rng),
    "orthogonal_directions": lambda rng: mm.data.orthogonal_directions(3, 4, rng=rng),
    "polygon_directions": lambda rng: mm.data.polygon_directions(5, 2, 6, rng=rng),
    "draw_neurons": lambda rng: mm.data.draw_neurons(WORLD, 3, rng=rng),
    "plant": lambda rng: mm.data.plant(WORLD, [("distributed", [])], rng=rng),
    "polysemanticity": lambda rng: mm.mono.polysemanticity(
        np.random.default_rng(1).random((40, 30, 3)), 5, rng=rng),
    "virtual_neurons": lambda rng: mm.mono.virtual_neurons(
        np.random.default_rng(1).random((9, 3)), rng=rng, starts=1),
    "initialise_by_distance": lambda rng: mm.mono.initialise_by_distance(
        [(3, 3), (3, 3)], 2.0, rng=rng),
}


def public_callables() -> Iterator[tuple[str, Any]]:
    for where in (
        mm, mm.functional, mm.gradcheck, mm.nn, mm.nn.taps, mm.nn.training, mm.models, mm.optim,
        mm.checkpoint, mm.data, mm.mono, mm.oracle,
    ):
        for name in getattr(where, "__all__", dir(where)):
            value = getattr(where, name)
            if name.startswith("_") or isinstance(value, ModuleType) or not callable(value):
                continue
            yield name, value
            if isinstance(value, type):
                yield from (
                    (f"{name}.{key}", method) for key, method in vars(value).items()
                    if inspect.isfunction(method) and not key.startswith("_")
                )


def test_every_public_function_with_an_rng_is_here() -> None:
    found = set()
    for name, value in public_callables():
        try:
            parameters = inspect.signature(value).parameters
        except (TypeError, ValueError):
            continue
        if "rng" in parameters:
            found.add(name)
    of_a_state = {"save", "Checkpoint", "Checkpoint.restore"}  # which a seed has not
    assert found - of_a_state == set(TAKES_RNG)


def bits(value: Any) -> Any:
    """All numbers in a result, so that two results can be compared to the last bit."""
    if isinstance(value, Module):
        return bits(value.state_dict())
    if isinstance(value, mm.Tensor):
        return bits(value.data)
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, dict):
        return {key: bits(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [bits(part) for part in value]
    if hasattr(value, "__dataclass_fields__"):
        return bits(vars(value))
    return value


@pytest.mark.parametrize("name", TAKES_RNG)
def test_a_whole_number_is_a_seed(name: str) -> None:
    use = TAKES_RNG[name]
    expected = bits(use(np.random.default_rng(3)))
    for seed in (3, np.int64(3), np.uint8(3)):
        assert bits(use(seed)) == expected
    if name != "check_grads":
        assert bits(use(4)) != expected


@pytest.mark.parametrize("name", TAKES_RNG)
@pytest.mark.parametrize(
    "bad", [None, True, 1.0, "0", -1, np.random.RandomState(0), np.random, np.random.PCG64(0), [0]],
    ids=lambda bad: type(bad).__name__,
)
def test_anything_else_is_refused(name: str, bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: rng is "):
        TAKES_RNG[name](bad)


def test_parts_of_a_network_draw_from_one_generator() -> None:
    """A seed makes one generator for the whole, so no two parts start alike."""
    for name, use in TAKES_RNG.items():
        model = use(0)
        if not isinstance(model, Module):
            continue
        values = [p.data.tobytes() for _, p in model.named_parameters() if p.data.std() > 0]
        assert len(values) == len(set(values)), name


def test_a_seed_in_functional_dropout_is_a_new_generator_each_time() -> None:
    x = mm.tensor(np.ones(99))
    assert bits(F.dropout(x, 0.5, rng=0)) == bits(F.dropout(x, 0.5, rng=0))
    layer = nn.Dropout(0.5, rng=0)
    assert bits(layer(x)) != bits(layer(x))


# ---- sizes -------------------------------------------------------------------------------------

# Constructors with good settings; each size in turn is made a bad one.
MAKES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Linear": (nn.Linear, {"in_features": 3, "out_features": 2}),
    "Embedding": (nn.Embedding, {"num_embeddings": 3, "embedding_dim": 2}),
    "LayerNorm": (nn.LayerNorm, {"channels": 3}),
    "RMSNorm": (nn.RMSNorm, {"channels": 3}),
    "MultiHeadAttention": (nn.MultiHeadAttention, {"channels": 4, "heads": 2}),
    "FeedForward": (
        lambda **sizes: nn.FeedForward(activation="relu", **sizes), {"channels": 4, "hidden": 3}),
    "Conv2d": (
        nn.Conv2d, {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "stride": 1}),
    "ConvTranspose2d": (
        nn.ConvTranspose2d, {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "stride": 1}),
    "MaxPool2d": (nn.MaxPool2d, {"kernel_size": 2, "stride": 2}),
    "AvgPool2d": (nn.AvgPool2d, {"kernel_size": 2, "stride": 2}),
    "ConvGRUCell": (
        lambda **sizes: nn.ConvGRUCell(2, **sizes), {"channels": 3, "kernel_size": 3}),
    "GPT": (
        lambda **sizes: mm.models.GPT(layers=1, **sizes),
        {"vocabulary": 5, "context": 4, "channels": 4, "heads": 2, "hidden": 3}),
    "BERT": (
        lambda **sizes: mm.models.BERT(layers=1, **sizes),
        {"vocabulary": 5, "context": 4, "channels": 4, "heads": 2, "classes": 2, "segments": 2,
         "hidden": 3}),
    "Llama": (
        lambda **sizes: mm.models.Llama(layers=1, **sizes),
        {"vocabulary": 5, "context": 4, "channels": 4, "heads": 2, "hidden": 3, "key_heads": 1,
         "head_channels": 2}),
    "GPTNeoX": (
        lambda **sizes: mm.models.GPTNeoX(layers=1, **sizes),
        {"vocabulary": 5, "context": 4, "channels": 16, "heads": 2, "hidden": 3}),
    "PlainViT": (
        lambda **sizes: mm.models.PlainViT(image=(1, 4, 4), layers=1, **sizes),
        {"patch": 2, "channels": 4, "heads": 2, "classes": 2, "hidden": 3}),
    "ViT": (
        lambda **sizes: mm.models.ViT(image=(1, 4, 4), layers=1, **sizes),
        {"patch": 1, "window": 2, "channels": 4, "heads": 2, "classes": 2}),
    "ConvNet": (
        lambda **sizes: mm.models.ConvNet(image=(1, 4, 4), channels=(2,), **sizes), {"classes": 2}),
    "ConvGRU": (
        lambda **sizes: mm.models.ConvGRU(channels=(2,), strides=(2,), **sizes),
        {"frames_out": 2, "kernel_size": 3}),
}
SIZES = [(name, size) for name, (_, sizes) in MAKES.items() for size in sizes]
HAVE_A_DEFAULT = [
    ("GPT", "hidden"), ("BERT", "hidden"), ("MaxPool2d", "stride"), ("AvgPool2d", "stride"),
    ("Llama", "key_heads"), ("Llama", "head_channels"), ("BERT", "segments"),
]
WITHOUT_RNG = ("LayerNorm", "RMSNorm", "MaxPool2d", "AvgPool2d")


def make(name: str, **changed: Any) -> Any:
    build, sizes = MAKES[name]
    rng = {} if name in WITHOUT_RNG else {"rng": 0}
    return build(**sizes | changed, **rng)


@pytest.mark.parametrize("name", MAKES)
def test_the_good_settings_are_good(name: str) -> None:
    sizes = MAKES[name][1]
    make(name)
    make(name, **{key: np.int64(value) for key, value in sizes.items()})


@pytest.mark.parametrize("bad", [0, -1, 2.0, np.float64(2.0), "2", True, None, np.nan], ids=repr)
@pytest.mark.parametrize(("name", "size"), SIZES)
def test_what_is_no_size_is_refused_by_name(name: str, size: str, bad: Any) -> None:
    if bad is None and (name, size) in HAVE_A_DEFAULT:
        make(name, **{size: None})
        return
    owner = {"hidden": "FeedForward", "kernel_size": "ConvGRUCell"}.get(size, name)
    expected = f"{name}: {size}|{owner}: {size}" if name in ("GPT", "BERT", "ConvGRU") else (
        f"{name}: {size}"
    )
    with pytest.raises((TypeError, ValueError), match=f"^({expected}) ?(:|is)"):
        make(name, **{size: bad})


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("GPT: layers", lambda n: mm.models.GPT(
            vocabulary=5, context=4, channels=4, heads=2, layers=n, rng=0)),
        ("BERT: layers", lambda n: mm.models.BERT(
            vocabulary=5, context=4, channels=4, heads=2, layers=n, classes=2, rng=0)),
        ("ViT: layers", lambda n: mm.models.ViT(
            image=(1, 4, 4), patch=1, window=2, channels=4, heads=2, layers=n, classes=2, rng=0)),
        ("Llama: layers", lambda n: mm.models.Llama(
            vocabulary=5, context=4, channels=4, heads=2, layers=n, hidden=3, rng=0)),
        ("GPTNeoX: layers", lambda n: mm.models.GPTNeoX(
            vocabulary=5, context=4, channels=16, heads=2, layers=n, hidden=3, rng=0)),
        ("PlainViT: layers", lambda n: mm.models.PlainViT(
            image=(1, 4, 4), patch=2, channels=4, heads=2, layers=n, hidden=3, classes=2, rng=0)),
        ("ConvGRUCell: in_channels", lambda n: nn.ConvGRUCell(n, 3, rng=0)),
        ("Conv2d: padding", lambda n: nn.Conv2d(2, 3, 3, padding=n, rng=0)),
        ("ConvTranspose2d: padding", lambda n: nn.ConvTranspose2d(2, 3, 3, padding=n, rng=0)),
        ("MaxPool2d: padding", lambda n: nn.MaxPool2d(3, padding=n)),
        ("AvgPool2d: padding", lambda n: nn.AvgPool2d(3, padding=n)),
    ],
)
def test_these_may_be_nought(name: str, call: Callable[[Any], Any]) -> None:
    call(0)
    for bad in (-1, 1.0, "1", True, None):
        with pytest.raises((TypeError, ValueError), match=f"^{name}"):
            call(bad)


@pytest.mark.parametrize("bad", [3, "34", (3, 0), (3, -1), (3, 2.0), (3, "2"), (3, None)], ids=repr)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("MLP: widths", lambda sizes: mm.models.MLP(sizes, rng=0)),
        ("ConvNet: channels", lambda sizes: mm.models.ConvNet(
            image=(1, 4, 4), channels=sizes, classes=2, rng=0)),
        ("ConvNet: image", lambda sizes: mm.models.ConvNet(
            image=sizes if isinstance(sizes, int | str) else (1, *sizes), channels=(2,), classes=2,
            rng=0)),
        ("ViT: image", lambda sizes: mm.models.ViT(
            image=sizes if isinstance(sizes, int | str) else (1, *sizes), patch=1, window=1,
            channels=4, heads=2, layers=1, classes=2, rng=0)),
        ("ConvGRU: channels", lambda sizes: mm.models.ConvGRU(
            channels=sizes, strides=(1, 1), rng=0)),
        ("ConvGRU: strides", lambda sizes: mm.models.ConvGRU(
            channels=(1, 1), strides=sizes, rng=0)),
    ],
)
def test_several_sizes(name: str, call: Callable[[Any], Any], bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name}"):
        call(bad)


@pytest.mark.parametrize("bad", [-0.1, 1.0, 2, np.nan, np.inf, "0.1", None, True, 1j], ids=repr)
def test_a_share_to_drop_is_a_number_below_one(bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^Dropout: p is"):
        nn.Dropout(bad, rng=0)
    for training in (True, False):
        with pytest.raises((TypeError, ValueError), match=r"^dropout: p is"):
            F.dropout(mm.tensor(1.0), bad, rng=0, training=training)


@pytest.mark.parametrize("p", [np.float64(0.5), np.float32(0.5), np.float16(0.5)])
def test_a_numpy_number_drops_as_a_python_number_does(p: Any) -> None:
    x = mm.tensor(np.ones(99), dtype=np.float32)
    out = nn.Dropout(p, rng=0)(x)
    assert out.dtype == np.float32
    assert bits(out) == bits(nn.Dropout(0.5, rng=0)(x))


@pytest.mark.parametrize("bad", [-1e-9, np.nan, np.inf, "1e-5", None, True], ids=repr)
@pytest.mark.parametrize("layer", [nn.LayerNorm, nn.RMSNorm])
def test_eps_is_at_least_zero(layer: Any, bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{layer.__name__}: eps is"):
        layer(3, eps=bad)
    assert layer(3, eps=0).eps == 0.0


# ---- ids ---------------------------------------------------------------------------------------

TEXT_MODELS = {  # five ids, context 4
    name: TAKES_RNG[name](0) for name in ("GPT", "BERT", "Llama", "GPTNeoX")
}


@pytest.mark.parametrize("name", TEXT_MODELS)
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([1, 2]), r"ids has shape \(2,\), expected \(B, T\); one text .*ids\[None\]"),
        (np.array(1), r"ids has shape \(\), expected \(B, T\)"),
        (np.ones((1, 2, 3), dtype=int), r"ids has shape \(1, 2, 3\), expected \(B, T\)"),
        ([1, 2], r"ids has shape \(2,\)"),
        (mm.tensor([1, 2]), r"ids has shape \(2,\)"),
        (np.ones((2, 5), dtype=int), "ids has 5 positions, expected 1 to 4"),
        (np.ones((2, 0), dtype=int), "ids has 0 positions, expected 1 to 4"),
        (np.ones((2, 3)), "embedding: ids have dtype float64, expected integers"),
        (np.ones((2, 3), dtype=bool), "embedding: ids have dtype bool, expected integers"),
        (np.array([[1, 5]]), r"embedding: id 5 is outside 0\.\.4"),
        (np.array([[1, -1]]), r"embedding: id -1 is outside 0\.\.4"),
    ],
)
def test_ids_that_do_not_fit_are_refused(name: str, ids: Any, message: str) -> None:
    start = "" if message.startswith("embedding") else f"{name}: "
    with pytest.raises((TypeError, ValueError), match=f"^{start}{message}"):
        TEXT_MODELS[name](ids)


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_ids_may_be_lists_tensors_and_small_integers(name: str) -> None:
    model, ids = TEXT_MODELS[name].eval(), np.array([[1, 2, 0], [4, 4, 3]])
    expected = bits(model(ids))
    for same in (ids.tolist(), mm.tensor(ids), ids.astype(np.uint8), ids.astype(np.int32)):
        assert bits(model(same)) == expected
