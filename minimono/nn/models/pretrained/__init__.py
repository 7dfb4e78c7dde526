"""Weights that others have trained: folders in the usual layout, and GGUF files.

A folder holds `config.json` and `model.safetensors`, or several such files and their index, as the
Hugging Face libraries write them. For each kind of network a file here says which of its arrays is
which parameter of ours, and `settings.py` which of its settings change a number. A setting or an
array that they do not name is an error: it might change the result. What they say was read off
transformers 5.24 and its older versions. Needs `pip install safetensors`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from minimono import checks, files
from minimono.nn.models.pretrained import settings
from minimono.nn.models.pretrained.arrays import Plan, filled, fresh
from minimono.nn.models.pretrained.bert import plan_bert
from minimono.nn.models.pretrained.decoders import plan_gpt_neox, plan_llama
from minimono.nn.models.pretrained.gguf import gguf_of
from minimono.nn.models.pretrained.gpt2 import plan_gpt2
from minimono.nn.models.pretrained.safetensors import INDEX, NAME, missing, safetensors_of
from minimono.nn.models.pretrained.vit import plan_vit
from minimono.nn.module import Module

KINDS: dict[str, Callable[..., Plan]] = {
    "gpt2": plan_gpt2, "gpt_neox": plan_gpt_neox,
    "llama": plan_llama, "mistral": plan_llama, "qwen2": plan_llama,
    "vit": plan_vit, "bert": plan_bert, "roberta": plan_bert, "distilbert": plan_bert,
}


def load_pretrained(
    folder: str | Path,
    classes: int | None = None,
    initialise: checks.Rng | None = None,
    *,
    untrained: bool = False,
) -> Module:
    """A network with the weights of a folder that others have trained, in `eval()` mode.

    By the folder's `model_type` it is a `GPT` (gpt2), a `BERT` (bert, roberta, distilbert), a
    `Llama` (llama, mistral, qwen2), a `GPTNeoX` (gpt_neox) or a `PlainViT` (vit); of a file .gguf,
    a `Llama` (llama, qwen2). Its logits are those of the library that wrote it.
    Weights stored in float64 make a float64 model, all others (float16, bfloat16) a float32 model,
    exactly. It has no dropout.

    A BERT here ends in a pooler and a classifier. Most folders lack one or both, having been
    trained for something else. `initialise`, a seed or a generator, draws what the file lacks as
    BERT does, normal with standard deviation `initializer_range` and bias 0, to be fine-tuned;
    without it such a folder is an error. `classes` asks for that many classes; other than the
    file's, they too are a part that the file lacks.

    `untrained=True` makes the same network with none of the folder's weights: all are drawn, from
    `initialise` or the seed 0, as a network of this kind starts. What a trained network has and it
    has not was learned.

    Raises FileNotFoundError for a missing file, RuntimeError if a library is missing, and
    ValueError, naming it, for a setting that is not computed here or not known to be harmless, for
    a class of model that is not, and for all arrays that are missing, misshapen, not finite or
    without a place. Sizes are compared before memory is asked for, and arrays are read one at a
    time: the peak is the model, and its largest array once or twice. Nobody may shorten the file of
    weights meanwhile: the library maps it into memory, and the system ends a process that reads
    beyond it.

    >>> load_pretrained("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: load_pretrained: no/such/folder/config.json does not exist
    """
    if classes is not None:
        classes = checks.whole_number(classes, "load_pretrained: classes", least=1)
    rng = None
    if initialise is not None or untrained:
        seed = 0 if initialise is None else initialise
        rng = checks.generator(seed, "load_pretrained: initialise")
    folder = Path(folder)
    if folder.suffix == ".gguf":
        return _loaded(folder, gguf_of(folder), classes, rng, untrained)
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"load_pretrained: {folder / 'config.json'} does not exist")
    if not (folder / NAME).exists() and not (folder / INDEX).exists():
        raise FileNotFoundError(
            f"load_pretrained: {folder / NAME} does not exist, nor {INDEX}{missing(folder)}"
        )
    return _loaded(folder, safetensors_of(folder), classes, rng, untrained)


def _loaded(
    path: Path, opening: AbstractContextManager[Any], classes: int | None,
    rng: np.random.Generator | None, untrained: bool,
) -> Module:
    try:
        with opening as weights:
            config: dict[str, Any] = weights.config
            kind = config.get("model_type")
            if not isinstance(kind, str) or kind not in KINDS:
                raise settings.wrong("model_type", kind, f"one of {[*KINDS]}")
            plan = KINDS[kind](config, weights, classes, rng)
            parts, dtype = plan.arrays.check(plan.parts, plan.harmless)
            spread = 0.0
            if rng is not None and (untrained or not all(part.theirs for part in parts)):
                spread = settings.positive(config, "initializer_range", 0.02)
            if untrained:
                assert rng is not None
                return fresh(plan, dtype, rng, spread).eval()
            return filled(plan, parts, dtype, rng, spread).eval()
    except ValueError as error:
        raise files.FileError(f"load_pretrained: {path}: {error}") from error
    except OSError as error:  # it may not be read, or has just gone away
        raise type(error)(f"load_pretrained: {path}: {error}") from error
