"""Checkpoints: a resumed run has the same bits, a crash or a bad file loses nothing."""

import io
import json
import os
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import checkpoint
from minimono.nn import Dropout, Linear, Module, Sequential, taps
from minimono.nn.checkpoint import CheckpointError, load, save
from minimono.nn.randomness import pack_rng, unpack_rng

HERE = Path(__file__).parent


def network(seed: int = 0, width: int = 4, dtype: Any = np.float32) -> Module:
    rng = np.random.default_rng(seed)
    return Sequential(
        Linear(3, width, rng=rng, dtype=dtype), Dropout(0.5, rng=rng), mm.nn.Tap(),
        Linear(width, 2, rng=rng, dtype=dtype),
    )


def bits(*parts: Any) -> dict[str, bytes]:
    return {
        f"{i} {name}": array.tobytes()
        for i, part in enumerate(parts)
        for name, array in part.state_dict().items()
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint with everything in it."""
    model = network()
    path = tmp_path / "run.npz"
    save(
        path, model, optimiser=mm.optim.Adam(model.parameters()), rng=np.random.default_rng(5),
        config={"width": 4, "words": ["größe", None, 0.1]}, step=3,
    )
    return path


def members_of(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


# ---- saving and restoring -----------------------------------------------------------------------


def test_round_trip(saved: Path) -> None:
    found = load(saved)
    assert (found.version, found.step) == (1, 3)
    assert found.config == {"width": 4, "words": ["größe", None, 0.1]}
    model, other = network(), network(seed=1)
    optimiser = mm.optim.Adam(other.parameters(), lr=0.5)
    rng = np.random.default_rng(6)
    found.restore(other, optimiser, rng)
    assert bits(other) == bits(model)
    assert optimiser.lr == 1e-3
    assert rng.random() == np.random.default_rng(5).random()


def test_anybody_can_look_with_numpy(saved: Path) -> None:
    members = members_of(saved)
    assert members["model/0.weight"].shape == (4, 3)
    assert "größe" in str(members["config"]).encode().decode("unicode_escape")
    assert int(members["step"]) == 3


def test_the_file_has_exactly_the_name_given(tmp_path: Path) -> None:
    save(tmp_path / "no suffix", network())
    assert os.listdir(tmp_path) == ["no suffix"]
    found = load(str(tmp_path / "no suffix"))
    assert (found.step, found.config, found.optimiser, found.rng) == (0, {}, None, None)


def test_restoring_needs_only_what_is_asked_for(saved: Path, tmp_path: Path) -> None:
    model = network(seed=1)
    load(saved).restore(model)
    assert bits(model) == bits(network())
    bare = tmp_path / "bare.npz"
    save(bare, network())
    before = bits(model)
    with pytest.raises(CheckpointError, match="restore: the checkpoint holds no optimiser"):
        load(bare).restore(model, mm.optim.Adam(model.parameters()))
    with pytest.raises(CheckpointError, match="restore: the checkpoint holds no rng"):
        load(bare).restore(model, rng=np.random.default_rng(0))
    assert bits(model) == before


def test_parameters_of_a_fortran_layout_and_zero_axes_survive(tmp_path: Path) -> None:
    model = Linear(3, 2, rng=np.random.default_rng(0), dtype=np.float64)
    model.weight.data = np.asfortranarray(model.weight.data)
    model.scale = mm.tensor(2.5, requires_grad=True)
    model.nothing = mm.tensor(np.empty((0, 3)), requires_grad=True)
    save(tmp_path / "x.npz", model)
    state = load(tmp_path / "x.npz").model
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(state[name], array)
        assert (state[name].shape, state[name].dtype) == (array.shape, array.dtype)


def test_bytes_of_the_other_order_are_read(saved: Path) -> None:
    members = {
        k: v.astype(v.dtype.newbyteorder(">")) if v.dtype.kind in "fi" else v
        for k, v in members_of(saved).items()
    }
    np.savez(saved, **members)
    model = network(seed=1)
    load(saved).restore(model)
    assert bits(model) == bits(network())
    assert all(array.dtype.isnative for array in load(saved).model.values())


def test_resuming_in_one_process_gives_the_same_bits(tiny_run: Any, tmp_path: Path) -> None:
    straight = tiny_run(12)
    losses = [record.loss for record in straight.records()]
    first = tiny_run(12)
    for record in first.records():
        if record.step == 5:
            first.save(tmp_path / "run.npz", record.step)
            break
    resumed = tiny_run(12)
    for _ in resumed.records(steps=2):
        pass  # it has a state of its own before it takes over the other
    start = resumed.resume(tmp_path / "run.npz")
    assert start == 5
    assert [record.loss for record in resumed.records(start)] == losses[5:]
    assert resumed.bits() == straight.bits()
    assert resumed.memel.tracker.batches_seen == 12


def test_a_killed_run_that_is_resumed_ends_in_the_same_bits(tiny_run: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    command = [sys.executable, str(HERE / "tiny_run.py"), str(path), "400"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 7:
                process.kill()  # SIGKILL: it gets no chance to say goodbye
                break
        process.stdout.read()
    assert process.returncode not in (0, None)

    resumed, straight = tiny_run(400), tiny_run(400)
    start = resumed.resume(path)
    assert 7 <= start < 400
    for _ in resumed.records(start, steps=start + 5):
        pass
    for _ in straight.records(steps=start + 5):
        pass
    assert resumed.bits() == straight.bits()


# ---- crashes ------------------------------------------------------------------------------------

SAVES_FOREVER = """
import itertools, sys
import numpy as np
import minimono as mm

model = mm.nn.Linear(500, 500, rng=np.random.default_rng(0), dtype=np.float64)
for step in itertools.count(1):
    model.weight.data[...] = step
    mm.checkpoint.save(sys.argv[1], model, step=step)
    if step == 1:
        print("saved", flush=True)
"""


def test_killed_in_the_middle_of_writing_the_old_checkpoint_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    rng = np.random.default_rng(0)
    unfinished = 0
    for _ in range(8):
        command = [sys.executable, "-c", SAVES_FOREVER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.05))
            process.kill()
        found = load(path)
        assert (found.model["weight"] == found.step).all()  # one checkpoint, not parts of two
        left = [*tmp_path.glob("run.npz.*.tmp")]
        unfinished += len(left)
        for file in left:
            file.unlink()
    assert unfinished  # or it was never caught writing, and nothing was tested


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as Unix does")
def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(saved: Path) -> None:
    old = saved.read_bytes()
    script = (
        "import resource, signal, sys, numpy as np, minimono as mm\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "model = mm.nn.Linear(100, 100, rng=np.random.default_rng(0))\n"
        "try:\n    mm.checkpoint.save(sys.argv[1], model)\n"
        "except mm.checkpoint.CheckpointError as error:\n    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(saved)],
        capture_output=True, text=True, check=True,
    )
    assert run.stdout.startswith(f"save: {saved} cannot be written:"), run
    assert run.stderr == ""
    assert saved.read_bytes() == old
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_a_failure_before_the_rename_leaves_the_old_checkpoint(
    saved: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    old = saved.read_bytes()

    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((CheckpointError, KeyboardInterrupt)):
        save(saved, network(seed=1))
    assert saved.read_bytes() == old
    assert os.listdir(saved.parent) == [saved.name]


def test_what_cannot_be_written_is_refused_before_anything_is_touched(saved: Path) -> None:
    old = saved.read_bytes()

    class Strange(Module):
        def extra_state(self) -> dict[str, Any]:
            return {"thing": np.array([object()])}

    for model, options, message in [
        (network(), {"config": {"f": len}}, "config cannot be written as JSON"),
        (network(), {"config": {"x": float("nan")}}, "config cannot be written as JSON"),
        (network(), {"config": {1: "a", "1": "b"}}, "the key '1' is there twice"),
        (network(), {"config": {"x": [{True: 0, "true": 1}]}}, "the key 'true' is there twice"),
        (network(), {"step": -1}, "step is"),
        (network(), {"step": 1.5}, "step is"),
        (Strange(), {}, "model/thing has dtype object"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            save(saved, model, **options)
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(saved.parent / "no folder" / "run.npz", network())
    assert saved.read_bytes() == old
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.skipif(sys.platform == "win32", reason="links and modes of Unix")
def test_a_link_and_a_mode_outlast_a_save_and_what_a_kill_left_does_not(
    saved: Path, tmp_path: Path
) -> None:
    link, left = tmp_path / "latest.npz", saved.with_name(f"{saved.name}.0123abcd.tmp")
    link.symlink_to(saved.name)
    saved.chmod(0o640)
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    save(link, network(), step=9)
    assert link.is_symlink()
    assert load(saved).step == 9
    assert saved.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == [link.name, saved.name]


# ---- files that are damaged, made up, or hostile ------------------------------------------------


def same_or_error(path: Path, original: checkpoint.Checkpoint) -> bool:
    """Load: either a CheckpointError (True), or exactly what was saved."""
    try:
        found = load(path)
    except CheckpointError:
        return True
    assert (found.step, found.config) == (original.step, original.config)
    for ours, theirs in [(found.model, original.model), (found.optimiser, original.optimiser)]:
        assert ours is not None
        assert theirs is not None
        assert {k: v.tobytes() for k, v in ours.items()} == {
            k: v.tobytes() for k, v in theirs.items()
        }
    return False


def test_truncated_files(saved: Path) -> None:
    data, original = saved.read_bytes(), load(saved)
    rng = np.random.default_rng(0)
    for length in [0, 1, 21, 22, len(data) - 1, *rng.integers(2, len(data), 100)]:
        saved.write_bytes(data[:length])
        assert same_or_error(saved, original), length


def test_flipped_bits(saved: Path) -> None:
    data, original = saved.read_bytes(), load(saved)
    rng = np.random.default_rng(0)
    errors = 0
    for _ in range(400):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            damaged[place] ^= 1 << rng.integers(0, 8)
        saved.write_bytes(damaged)
        errors += same_or_error(saved, original)
    assert errors > 200  # the others hit dates and the like


def test_overwritten_stretches_and_rubbish(saved: Path) -> None:
    data, original = saved.read_bytes(), load(saved)
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data)
        start = int(rng.integers(0, len(data)))
        end = min(len(data), start + int(rng.integers(1, 200)))
        damaged[start:end] = rng.bytes(end - start)
        saved.write_bytes(damaged)
        same_or_error(saved, original)
        saved.write_bytes(rng.bytes(int(rng.integers(0, 2000))))
        assert same_or_error(saved, original)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: the file does not exist"):
        load(tmp_path / "nowhere.npz")
    with pytest.raises(CheckpointError, match=r"the file is a folder, expected a regular file"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("version"), "holds no version"),
        (lambda m: m.pop("step"), "holds no step"),
        (lambda m: m.pop("config"), "holds no config"),
        (lambda m: m.update(version=np.array(2)), "version is 2, this minimono reads version 1"),
        (lambda m: m.update(version=np.array(1.0)), "version is"),
        (lambda m: m.update(step=np.array(-1)), r"step is array\(-1\)"),
        (lambda m: m.update(step=np.array([1])), r"step is array\(\[1\]\)"),
        (lambda m: m.update(config=np.array("[1]")), r"config is \[1\]"),
        (lambda m: m.update(config=np.array("{")), "config is not JSON"),
        (lambda m: m.update(config=np.array('{"a": 1, "a": 2}')), "the key 'a' is there twice"),
        (lambda m: m.update(config=np.array("[" * 100 + "]" * 100)), "nested more than 64 deep"),
        (lambda m: m.update(config=np.array(3)), "config is 3"),
        (lambda m: m.update(rng=np.ones(3)), "rng is float64"),
        (lambda m: m.update(surprise=np.ones(3)), "unexpected member 'surprise'"),
        (lambda m: m.update({"model/": np.ones(3)}), "unexpected member 'model/'"),
        (lambda m: m.update({"../x": np.ones(3)}), "unexpected member '../x'"),
        (lambda m: m.update({"model/0.weight": np.ones(3) * 1j}), "dtype complex128"),
        (lambda m: m.update({"model/0.weight": np.array("x")}), "unexpected member 'model/0.w"),
        (lambda m: m.update({"model/0.weight": np.zeros(2, "M8[s]")}), "dtype datetime64"),
    ],
)
def test_members_that_are_wrong(saved: Path, change: Callable[[Any], Any], message: str) -> None:
    members = members_of(saved)
    change(members)
    np.savez(saved, **members)
    with pytest.raises(CheckpointError, match=message):
        load(saved)


def test_nothing_in_a_file_is_executed(saved: Path) -> None:
    members = members_of(saved)
    marker = saved.parent / "executed"

    class Malice:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    members["model/0.weight"] = np.array([Malice()])
    np.savez(saved, **members)
    with pytest.raises(CheckpointError, match="dtype object"):
        load(saved)
    assert not marker.exists()


def replaced(path: Path, name: str, data: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """Write the checkpoint again, with other bytes for one member."""
    with zipfile.ZipFile(path) as archive:
        contents = {entry: archive.read(entry) for entry in archive.namelist()}
    contents[name] = data
    with zipfile.ZipFile(path, "w", compression) as archive:
        for entry, content in contents.items():
            archive.writestr(entry, content)


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -12), }",
        "{'descr': '|V0', 'fortran_order': False, 'shape': (4, 3), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "(" * 40 + "}",
        "__import__('os').abort()",
        "",
    ],
)
def test_a_header_that_does_not_tell_the_truth(saved: Path, header: str) -> None:
    replaced(saved, "model/0.weight.npy", npy(header, bytes(96)))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"damaged, or no checkpoint|member 'model/0\.w"):
            load(saved)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_copy_of_nothing_is_not_large(saved: Path) -> None:
    """NumPy copies an array of texts of width 0 to one of width 1."""
    header = "{'descr': '<U0', 'fortran_order': False, 'shape': (100000000,), }"
    replaced(saved, "config.npy", npy(header))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="member 'config' has dtype <U0"):
            load(saved)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.Philox])
@pytest.mark.parametrize("place", [-1, 625, 2**31 - 1, None, "0"])
def test_a_generator_is_not_sent_outside_of_its_numbers(kind: Any, place: Any) -> None:
    """NumPy would read there."""
    rng = np.random.Generator(kind(0))
    before = repr(rng.bit_generator.state)
    state = json.loads(bytes(pack_rng(rng)))
    (state["state"] if "pos" in state["state"] else state).update(pos=place, buffer_pos=place)
    with pytest.raises(ValueError, match="generator state cannot be read"):
        unpack_rng(np.frombuffer(json.dumps(state).encode(), np.uint8), into=rng)
    assert repr(rng.bit_generator.state) == before


def test_a_small_file_cannot_unpack_to_a_large_one(saved: Path) -> None:
    bomb = io.BytesIO()
    np.save(bomb, np.zeros(10_000_000))
    replaced(saved, "model/0.weight.npy", bomb.getvalue(), zipfile.ZIP_DEFLATED)
    del bomb
    assert saved.stat().st_size < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="claim to be larger than the file"):
            load(saved)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_compressed_and_doubled_members_are_refused(saved: Path) -> None:
    original = saved.read_bytes()
    replaced(saved, "model/0.weight.npy", bytes(range(256)) * 4, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"compressed|larger than the file"):
        load(saved)
    saved.write_bytes(original)
    with zipfile.ZipFile(saved, "a") as archive:
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("step.npy", b"")
    with pytest.raises(CheckpointError, match=r"unexpected member 'step.npy'"):
        load(saved)
    saved.write_bytes(original)
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("readme.txt", b"hello")
    with pytest.raises(CheckpointError, match=r"unexpected member 'readme.txt'"):
        load(saved)


# ---- a good file that does not fit --------------------------------------------------------------


def with_memel(model: Module) -> Module:
    taps.insert(model, "2", mm.mono.MEmeL())
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network(width=5), r"0.weight has shape \(4, 3\), expected \(5, 3\)"),
        (lambda: network(dtype=np.float64), "0.weight was saved as float32, the model has float64"),
        (lambda: with_memel(network()), r"missing \['2.inserted.batches_seen'"),
        (lambda: Sequential(Linear(3, 4, rng=np.random.default_rng(0))), "unexpected"),
    ],
)
def test_another_model_is_left_as_it_was(saved: Path, make: Any, message: str) -> None:
    model = make()
    optimiser, rng = mm.optim.Adam(model.parameters()), np.random.default_rng(1)
    before, state = bits(model, optimiser), rng.bit_generator.state
    with pytest.raises(CheckpointError, match=message):
        load(saved).restore(model, optimiser, rng)
    assert bits(model, optimiser) == before
    assert rng.bit_generator.state == state


@pytest.mark.parametrize(
    ("optimiser_kind", "generator", "message"),
    [
        (mm.optim.SGD, np.random.PCG64, "SGD.load_state_dict: missing"),
        (mm.optim.Adam, np.random.Philox, "generator state cannot be read"),
    ],
)
def test_another_optimiser_or_generator_changes_nothing_at_all(
    saved: Path, optimiser_kind: Any, generator: Any, message: str
) -> None:
    model = network(seed=1)
    optimiser = optimiser_kind(model.parameters(), lr=0.5)
    rng = np.random.Generator(generator(1))
    before, state = bits(model, optimiser), repr(rng.bit_generator.state)
    with pytest.raises(CheckpointError, match=message):
        load(saved).restore(model, optimiser, rng)
    assert bits(model, optimiser) == before
    assert repr(rng.bit_generator.state) == state


def test_moments_that_make_no_sense_change_nothing(tmp_path: Path) -> None:
    model = with_memel(network(dtype=np.float64))
    model(mm.tensor(np.random.default_rng(0).standard_normal((5, 3))))
    path = tmp_path / "run.npz"
    save(path, model)
    members = members_of(path)
    members["model/2.inserted.m2"] = -members["model/2.inserted.m2"]
    np.savez(path, **members)
    other = with_memel(network(seed=1, dtype=np.float64))
    before = bits(other)
    with pytest.raises(CheckpointError, match=r"restore: .*m2"):
        load(path).restore(other)
    assert bits(other) == before


@pytest.mark.gpu
def test_saved_on_a_gpu_restored_on_the_cpu_and_back(tmp_path: Path) -> None:
    model = with_memel(network(dtype=np.float64)).to("cuda")
    optimiser = mm.optim.Adam(model.parameters())
    x = np.random.default_rng(0).standard_normal((5, 3))
    model(mm.tensor(x, device="cuda")).sum().backward()
    optimiser.step()
    save(tmp_path / "run.npz", model, optimiser=optimiser)
    for device in ("cpu", "cuda"):
        other = with_memel(network(seed=1, dtype=np.float64)).to(device)
        load(tmp_path / "run.npz").restore(other, mm.optim.Adam(other.parameters()))
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert q.device == device
            np.testing.assert_array_equal(
                mm.backend.to_host(p.data), mm.backend.to_host(q.data)
            )
        other.eval()(mm.tensor(x, device=device))
