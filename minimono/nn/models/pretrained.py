"""Weights that others have trained: GPT-2 and BERT folders in the usual layout.

A folder holds `config.json` and `model.safetensors`, as the Hugging Face libraries write them. The
tables below say which of its arrays is which parameter of ours, those in `pretrained_settings.py`
which of its settings change a number. A setting or an array that they do not name is an error: it
might change the result. What they say was read off transformers 5.24 and its older versions. Needs
`pip install safetensors`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minimono import checks, files
from minimono.backend import Array
from minimono.lazy import required
from minimono.nn.models import pretrained_settings as settings
from minimono.nn.models.bert import BERT
from minimono.nn.models.gpt import GPT
from minimono.nn.module import Module

Generator = np.random.Generator

# Parameters of a block of ours, and the names that they have in a block of theirs.
GPT2_BLOCK = {
    "norm1": "ln_1", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj",
    "norm2": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj",
}
BERT_BLOCK = {
    "attention.out": "attention.output.dense", "norm1": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense", "mlp.down": "output.dense", "norm2": "output.LayerNorm",
}

# Arrays that hold no weights: masks and counts that older versions stored.
GPT2_BUFFERS = r"h\.\d+\.attn\.(bias|masked_bias)"
BERT_BUFFERS = r"embeddings\.(position_ids|token_type_ids)"


@dataclass(frozen=True)
class BertHead:
    """What a class of theirs has above BERT's blocks."""

    classifier: str = ""  # the array that is our classifier; none in most
    rows: int | None = None  # its number of classes, where config.json does not say it
    left_out: str = ""  # arrays of heads for other tasks begin so


BERT_HEADS = {
    "BertForSequenceClassification": BertHead("classifier"),
    "BertForMultipleChoice": BertHead("classifier", rows=1),
    "BertForNextSentencePrediction": BertHead("cls.seq_relationship", rows=2),
    "BertModel": BertHead(),
    "BertForPreTraining": BertHead(left_out="cls."),
    "BertForMaskedLM": BertHead(left_out="cls."),
    "BertForTokenClassification": BertHead(left_out="classifier."),
    "BertForQuestionAnswering": BertHead(left_out="qa_outputs."),
}
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float32, "BF16": np.float32}


def load_pretrained(
    folder: str | Path,
    classes: int | None = None,
    initialise: checks.Rng | None = None,
) -> Module:
    """A `GPT` or `BERT` with the weights of a GPT-2 or BERT folder, in `eval()` mode.

    Its logits are those of the library that wrote the folder. Weights stored in float64 make a
    float64 model, all others (float16, bfloat16) a float32 model, exactly. It has no dropout.

    A BERT here ends in a pooler and a classifier. Most folders lack one or both, having been
    trained for something else. `initialise`, a seed or a generator, draws what the file lacks as
    BERT does, normal with standard deviation `initializer_range` and bias 0, to be fine-tuned;
    without it such a folder is an error. `classes` asks for that many classes; other than the
    file's, they too are a part that the file lacks.

    Raises FileNotFoundError for a missing file, RuntimeError if a library is missing, and
    ValueError, naming it, for a setting that is not computed here or not known to be harmless, for
    a class of model that is not, and for an array that is missing, misshapen, not finite or without
    a place. Sizes are compared before memory is asked for. Nobody may shorten the file of weights
    meanwhile: the library maps it into memory, and the system ends a process that reads beyond it.

    >>> load_pretrained("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: load_pretrained: no/such/folder/config.json does not exist
    """
    if classes is not None:
        classes = checks.whole_number(classes, "load_pretrained: classes", least=1)
    rng = None
    if initialise is not None:
        rng = checks.generator(initialise, "load_pretrained: initialise")
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"load_pretrained: {folder / name} does not exist{_other_weights(folder)}"
            )
    safetensors = required("safetensors", by="load_pretrained", install="safetensors")
    try:
        config = settings.read_config(folder / "config.json")
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise settings.wrong("model_type", kind, f"{[*_KINDS]}")
        with _weights(folder / "model.safetensors", safetensors) as file:
            return _KINDS[kind](config, file, classes, rng).eval()
    except ValueError as error:
        raise files.FileError(f"load_pretrained: {folder}: {error}") from error
    except OSError as error:  # it may not be read, or has just gone away
        raise type(error)(f"load_pretrained: {folder}: {error}") from error


def _weights(path: Path, safetensors: Any) -> Any:
    """Return the library's view of a file, which is the very file that was found regular."""
    with files.RegularFile(path, path.name) as file:
        opened = Path(f"/dev/fd/{file.fileno()}")  # where the system has such names
        try:
            return safetensors.safe_open(opened if opened.exists() else path, "numpy")
        except Exception as error:  # the library raises kinds of its own
            reason = str(error)[:300]  # it may name an array, however long the name is
            raise files.FileError(f"{path.name} cannot be read: {reason}") from error


def _other_weights(folder: Path) -> str:
    if (folder / "model.safetensors.index.json").exists():
        return ": its weights are in several files, which are not read here; save them as one"
    if (folder / "pytorch_model.bin").exists():
        return ": pytorch_model.bin is not read here; save the weights as safetensors"
    return ""


# ---- the two kinds ------------------------------------------------------------------------------


def _gpt2(config: settings.Config, file: Any, classes: int | None, rng: Generator | None) -> Module:
    if classes is not None:
        raise ValueError(f"classes = {classes}, but a GPT-2 has no classes")
    config = settings.with_one_name_each(config, settings.GPT2_OTHER_NAMES)
    read = {*settings.GPT2_SIZES, "n_inner", "activation_function", "layer_norm_epsilon"}
    settings.check_settings(config, settings.GPT2_FIXED, settings.GPT2_HARMLESS | read)
    vocabulary, context, C, heads, layers = (
        settings.size(config, *item) for item in settings.GPT2_SIZES.items()
    )
    settings.check_heads("n_embd", C, "n_head", heads)
    hidden = 4 * C if config.get("n_inner") is None else settings.size(config, "n_inner", 0)
    activation = settings.activation(config, "activation_function", "gelu_new")
    eps = settings.positive(config, "layer_norm_epsilon", 1e-5)
    if (name := settings.architecture(config)) not in (None, "GPT2LMHeadModel", "GPT2Model"):
        raise settings.unknown_architecture(name, ["GPT2LMHeadModel", "GPT2Model"])

    arrays = _Arrays(file, base="transformer")
    if "lm_head.weight" in arrays and not arrays.same("lm_head.weight", "wte.weight"):
        raise ValueError(
            "model.safetensors: lm_head.weight differs from wte.weight; the GPT here reads and "
            "writes tokens with one matrix"
        )

    def parts() -> Iterator[_Part]:
        yield _Part("token.weight", ["wte.weight"], (vocabulary, C))
        yield _Part("position.weight", ["wpe.weight"], (context, C))
        shapes = {
            "attention.qkv": (C, 3 * C), "attention.out": (C, C),
            "mlp.up": (C, hidden), "mlp.down": (hidden, C),
        }
        for i in range(layers):
            for ours, theirs in GPT2_BLOCK.items():
                # GPT-2 stores a layer's weights as (in, out), ours are (out, in).
                shape = shapes.get(ours, (C,))
                ours, theirs = f"block.{i}.{ours}", f"h.{i}.{theirs}"
                yield _Part(f"{ours}.weight", [f"{theirs}.weight"], shape, transposed=True)
                yield _Part(f"{ours}.bias", [f"{theirs}.bias"], shape[-1:])
        yield _Part("norm.weight", ["ln_f.weight"], (C,))
        yield _Part("norm.bias", ["ln_f.bias"], (C,))

    checked, dtype = arrays.check(parts(), harmless=rf"{GPT2_BUFFERS}|lm_head\.weight")
    model = GPT(
        vocabulary=vocabulary, context=context, channels=C, heads=heads, layers=layers,
        hidden=hidden, activation=activation, eps=eps, rng=_Zeros(np.random.PCG64(0)), dtype=dtype,
    )
    return _filled(model, arrays, checked)


def _bert(config: settings.Config, file: Any, classes: int | None, rng: Generator | None) -> Module:
    read = {*settings.BERT_SIZES, "hidden_act", "layer_norm_eps", "id2label", "num_labels"}
    settings.check_settings(config, settings.BERT_FIXED, settings.BERT_HARMLESS | read)
    vocabulary, context, C, heads, layers, hidden, segments = (
        settings.size(config, *item) for item in settings.BERT_SIZES.items()
    )
    settings.check_heads("hidden_size", C, "num_attention_heads", heads)
    activation = settings.activation(config, "hidden_act", "gelu")
    eps = settings.positive(config, "layer_norm_eps", 1e-12)

    arrays = _Arrays(file, base="bert")
    name = settings.architecture(config) or _bert_architecture(arrays)
    if name not in BERT_HEADS:
        raise settings.unknown_architecture(name, [*BERT_HEADS])
    head = BERT_HEADS[name]
    rows = settings.labels(config) if head.rows is None else head.rows
    pooler, classifier, left_out = "pooler.dense", head.classifier, head.left_out
    missing = []
    if f"{pooler}.weight" not in arrays:
        missing, pooler = ["a pooler"], ""
    if not classifier or f"{classifier}.weight" not in arrays:
        missing, classifier = [*missing, "a classifier of texts"], ""
    elif classes not in (None, rows):
        missing = [*missing, f"a classifier of {classes} classes (it has one of {rows})"]
        classifier, left_out = "", f"{classifier}."
    if missing and rng is None:
        raise ValueError(
            f"the weights of a {name} lack {' and '.join(missing)}; to draw what is missing and "
            "fine-tune it: load_pretrained(folder, classes=..., initialise=0), with any seed"
        )
    if not classifier and classes is None and rows > vocabulary:  # no stored array bounds it
        most = f"at most vocab_size = {vocabulary}; say classes=..."
        raise settings.wrong("num_labels", rows, most)
    rows = rows if classes is None else classes
    spread = settings.positive(config, "initializer_range", 0.02) if missing else 0.0

    def parts() -> Iterator[_Part]:
        def layer(ours: str, theirs: list[str], shape: tuple[int, ...]) -> Iterator[_Part]:
            yield _Part(f"{ours}.weight", [f"{name}.weight" for name in theirs], shape)
            yield _Part(f"{ours}.bias", [f"{name}.bias" for name in theirs], shape[:1])

        for ours, theirs, length in (
            ("token", "word", vocabulary), ("position", "position", context),
            ("segment", "token_type", segments),
        ):
            yield _Part(f"{ours}.weight", [f"embeddings.{theirs}_embeddings.weight"], (length, C))
        yield from layer("norm", ["embeddings.LayerNorm"], (C,))
        shapes = {"attention.out": (C, C), "mlp.up": (hidden, C), "mlp.down": (C, hidden)}
        for i in range(layers):
            block = f"encoder.layer.{i}"
            qkv = [f"{block}.attention.self.{name}" for name in ("query", "key", "value")]
            yield from layer(f"block.{i}.attention.qkv", qkv, (C, C))
            for ours, theirs in BERT_BLOCK.items():
                yield from layer(f"block.{i}.{ours}", [f"{block}.{theirs}"], shapes.get(ours, (C,)))
        yield from layer("pooler", [pooler] if pooler else [], (C, C))
        yield from layer("classifier", [classifier] if classifier else [], (rows, C))

    harmless = BERT_BUFFERS + (rf"|{re.escape(left_out)}.*" if left_out else "")
    checked, dtype = arrays.check(parts(), harmless)
    model = BERT(
        vocabulary=vocabulary, context=context, channels=C, heads=heads, layers=layers,
        hidden=hidden, activation=activation, eps=eps, classes=rows, segments=segments,
        rng=_Zeros(np.random.PCG64(0)), dtype=dtype,
    )
    return _filled(model, arrays, checked, rng, spread)


_KINDS: dict[str, Callable[..., Module]] = {"gpt2": _gpt2, "bert": _bert}


def _bert_architecture(arrays: _Arrays) -> str:
    """The class that wrote these arrays, where config.json does not say it."""
    if "classifier.weight" in arrays:
        pooled = "pooler.dense.weight" in arrays
        return "BertForSequenceClassification" if pooled else "BertForTokenClassification"
    if "qa_outputs.weight" in arrays:
        return "BertForQuestionAnswering"
    if "cls.predictions.bias" in arrays:
        return "BertForPreTraining"
    if "cls.seq_relationship.weight" in arrays:
        return "BertForNextSentencePrediction"
    return "BertModel"


# ---- arrays -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A parameter of ours, made of arrays of theirs, all of one shape, one above the other.

    Made of none, it is one that the file lacks.
    """

    ours: str
    theirs: list[str]
    shape: tuple[int, ...]
    transposed: bool = False


class _Arrays:
    """The arrays of a file by their bare names: each class of theirs has prefixes of its own, and
    old versions called a norm's weight and bias gamma and beta."""

    def __init__(self, file: Any, base: str):
        self.file = file
        self.stored: dict[str, str] = {}
        for stored in file.keys():
            if len(stored) > 200:
                raise ValueError(f"model.safetensors has an array named {settings.short(stored)}")
            name = re.sub(rf"^(model\.)?({base}\.)?", "", stored)
            name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
            other = self.stored.setdefault(name, stored)
            if other != stored and not self._same(other, stored):
                raise ValueError(f"model.safetensors has both {other} and {stored}, which differ")

    def __contains__(self, name: str) -> bool:
        return name in self.stored

    def __getitem__(self, name: str) -> str:
        if name not in self.stored:
            raise ValueError(f"model.safetensors has no array {name}, which config.json asks for")
        return self.stored[name]

    def same(self, name: str, other: str) -> bool:
        return self._same(self[name], self[other])

    def _same(self, stored: str, other: str) -> bool:
        return self._shape(stored) == self._shape(other) and np.array_equal(
            self._read(stored), self._read(other)
        )

    def _shape(self, stored: str) -> tuple[int, ...]:
        return tuple(self.file.get_slice(stored).get_shape())

    def _kind(self, stored: str) -> str:
        kind: str = self.file.get_slice(stored).get_dtype()
        if kind not in FLOATS:
            raise ValueError(
                f"model.safetensors has {stored} in {kind}, expected one of {[*FLOATS]}"
            )
        return kind

    def _read(self, stored: str) -> Array:
        if (kind := self._kind(stored)) == "BF16":
            by = f"load_pretrained, for bfloat16 in {stored},"
            required("ml_dtypes", by=by, install="ml_dtypes")  # teaches NumPy the type
        return self.file.get_tensor(stored).astype(FLOATS[kind])

    def check(self, parts: Iterator[_Part], harmless: str) -> tuple[list[_Part], type]:
        """The parts, and the dtype that holds them all, once each array is known to fit."""
        checked, kinds, used = [], set(), set()
        for part in parts:
            for name in part.theirs:
                stored = self[name]
                if (shape := self._shape(stored)) != part.shape:
                    raise ValueError(
                        f"model.safetensors has {stored} of shape {shape}, "
                        f"config.json asks for {part.shape}"
                    )
                kinds.add(self._kind(stored))
                used.add(name)
            checked.append(part)
        others = [name for name in self.stored if name not in used]
        if strangers := [name for name in others if not re.fullmatch(harmless, name)]:
            raise ValueError(
                f"model.safetensors has {len(strangers)} arrays without a place in the network "
                f"that config.json describes: {', '.join(sorted(strangers)[:3])}..."
            )
        return checked, np.float64 if "F64" in kinds else np.float32

    def read(self, part: _Part) -> Array:
        arrays = []
        for name in part.theirs:
            array = self._read(self[name])
            if not np.isfinite(array).all():
                raise ValueError(f"model.safetensors has nan or inf in {self[name]}")
            arrays.append(array)
        array = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
        return array.T if part.transposed else array


class _Zeros(Generator):
    """Draws zeros, in no time, for a model of which every weight is about to be replaced."""

    def standard_normal(self, size: Any) -> Array:  # type: ignore[override]
        return np.zeros(size)

    def uniform(self, low: float, high: float, size: Any) -> Array:  # type: ignore[override]
        return np.zeros(size)


def _filled(
    model: Module, arrays: _Arrays, parts: list[_Part],
    rng: Generator | None = None, spread: float = 0.0,
) -> Module:
    """The model with each parameter replaced, one at a time, so that there are never two sets."""
    parameters = dict(model.named_parameters())
    for part in parts:
        p = parameters.pop(part.ours)
        if part.theirs:
            value = arrays.read(part)
        else:
            assert rng is not None
            value = np.zeros(p.shape) if p.ndim == 1 else rng.normal(0.0, spread, p.shape)
        p.data = value.astype(p.dtype, order="C", copy=False)
    assert not parameters, f"no arrays for {[*parameters]}"
    return model
