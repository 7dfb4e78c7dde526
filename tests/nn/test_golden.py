"""The golden trajectory: does the code still compute what it computed when the file was made?

On a machine with the file's fingerprint: the same bits. On another: to 1e-9.
"""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minimono as mm

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def making() -> dict[str, Any]:
    return runpy.run_path(str(HERE / "make_golden.py"))


@pytest.fixture(scope="module")
def golden(making: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(making["FILE"].read_text())
    return found


def stored(making: dict[str, Any], golden: dict[str, Any]) -> dict[str, Any]:
    """The losses and gradients in the file, as arrays by name."""
    from_bits = making["from_bits"]
    arrays = {"losses": from_bits(golden["losses"]["bits"])}
    for name, entry in golden["gradients"].items():
        arrays[name] = from_bits(entry["bits"]).reshape(entry["shape"])
    return arrays


def computed(making: dict[str, Any], **options: Any) -> dict[str, Any]:
    losses, gradients, _ = making["trajectory"](**options)
    return {"losses": np.array(losses), **gradients}


def assert_close(ours: dict[str, Any], theirs: dict[str, Any], message: str = "") -> None:
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        # Relative to the largest: some gradients, as those of the keys' biases, are rounding alone.
        np.testing.assert_allclose(
            ours[name], array, rtol=1e-9, atol=1e-9 * abs(array).max(), err_msg=name + message
        )


def test_the_trajectory_is_the_one_in_the_file(
    making: dict[str, Any], golden: dict[str, Any]
) -> None:
    ours, theirs = computed(making), stored(making, golden)
    here, there = making["fingerprint"](), golden["fingerprint"]
    different = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    if different:
        why = f" (compared to 1e-9: the file was made with another {', '.join(different)})"
        assert_close(ours, theirs, why)
        return
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert making["to_bits"](ours[name]) == making["to_bits"](array), (
            f"{name}: not the bits in the file, on a machine with its fingerprint. If the "
            "change is meant, run make_golden.py and say why in the commit"
        )


def test_text_and_bits_in_the_file_agree(making: dict[str, Any], golden: dict[str, Any]) -> None:
    arrays = stored(making, golden)
    assert len(arrays["losses"]) == making["STEPS"] == 10
    for name, array in arrays.items():
        entry = golden["losses"] if name == "losses" else golden["gradients"][name]
        text = np.array([float(word) for word in entry["text"].split()])
        np.testing.assert_allclose(text, array.reshape(-1), rtol=1e-5)


def test_the_trajectory_has_inhibition_in_it(
    making: dict[str, Any], golden: dict[str, Any]
) -> None:
    inhibited = making["trajectory"]()[2]
    assert inhibited == golden["inhibited in the last step"] == 4 * 2  # k = 2 of each sample


def test_two_runs_in_one_process_give_the_same_bits(making: dict[str, Any]) -> None:
    first, second = computed(making), computed(making)
    assert {k: v.tobytes() for k, v in first.items()} == {k: v.tobytes() for k, v in second.items()}


def test_the_reading_versions_agree(making: dict[str, Any], golden: dict[str, Any]) -> None:
    with mm.reference():
        reading = computed(making)
    assert_close(reading, computed(making))
    assert_close(reading, stored(making, golden))


@pytest.mark.gpu
def test_on_a_gpu_to_rounding(making: dict[str, Any], golden: dict[str, Any]) -> None:
    assert_close(computed(making, device="cuda"), stored(making, golden))
