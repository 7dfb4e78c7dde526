"""In a fresh interpreter: each public name used alone, each module imported first, tensors copied.

Nothing here is loaded by another test before. `.ci/run` runs this file on the installed wheel too.
"""

import ast
import copy
import json
import os
import pickle
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import minimono as mm

# Of each public name a first use, and of a module one that needs what it holds to be whole.
USES = {
    "Tensor": """
        x = mm.Tensor(np.ones(2))
        assert ((x + 1.0) * x == mm.Tensor(2 * x.data)).data.all()""",
    "checkpoint": """
        model = mm.nn.Linear(2, 1, rng=np.random.default_rng(0))
        mm.checkpoint.save("run.npz", model=model, step=3)
        assert mm.checkpoint.load("run.npz").step == 3""",
    "data": """
        z, y = mm.tensor(np.full((1, 2, 1, 4, 4), 0.5)), np.ones((1, 2, 1, 4, 4))
        assert mm.data.rain_loss(z, y).data > 0""",
    "functional": """
        x = mm.functional.softmax(mm.tensor([0.0, 0.0]))
        assert (mm.functional.relu(x - 1.0).data == 0).all()""",
    "grad": "assert (mm.grad(lambda x: (x * x).sum())([1.0, 2.0]).data == [2.0, 4.0]).all()",
    "gradcheck": "mm.gradcheck.check_grads(lambda x: (x.exp() * x).sum(), np.ones(3), order=2)",
    "models": """
        model = mm.models.MLP((2, 3, 1), rng=np.random.default_rng(0))
        (model(mm.tensor([[1.0, 2.0]], dtype="float32")) ** 2).sum().backward()
        assert all(p.grad is not None for p in model.parameters())""",
    "mono": """
        layer, z = mm.mono.MEmeL(k=1), np.random.default_rng(0).standard_normal((8, 4))
        for _ in range(12):
            out = layer(mm.tensor(z, requires_grad=True))
        (out * out).sum().backward()""",
    "nn": """
        layer = mm.nn.Linear(2, 3, rng=np.random.default_rng(0))
        assert (layer(mm.tensor([[1.0, 2.0]])) * 2.0).shape == (1, 3)""",
    "no_grad": """
        with mm.no_grad():
            x = mm.tensor([1.0], requires_grad=True)
            assert not (x * 2).requires_grad""",
    "optim": """
        p = mm.tensor([1.0], requires_grad=True)
        (p * p).sum().backward()
        mm.optim.SGD([p], lr=0.25).step()
        assert p.data == 0.5""",
    "oracle": """
        report = mm.oracle.check({"monosemantic_scale": mm.mono.monosemantic_scale})
        assert report.passed and not report.failures""",
    "primitive": """
        @mm.primitive
        def twice(x):
            return 2 * x
        twice.vjp(lambda g, out, x: 2 * g)
        assert mm.grad(lambda x: twice(x).sum())([1.0]).data == 2""",
    "reference": """
        with mm.reference():
            assert (mm.functional.gelu(mm.tensor([0.0])) * 1.0).data == 0""",
    "set_num_threads": "mm.set_num_threads(1); assert mm.machine.threads() == 1",
    "tensor": """
        x = mm.tensor([[1.0, 2.0]])
        assert (x == x).data.all() and not (x != x).data.any()
        assert ((2 * x / 1.0 - x) ** 1 @ x.T).data == 5.0 and (-x < abs(x)).data.all()
        assert x[:, 1:].sum().data == 2.0 and x.T.max().data == 2.0""",
}
PACKAGES = [
    "nn", "mono", "data", "models", "oracle", "functional", "optim", "checkpoint", "gradcheck",
]

# A process that has only other people's libraries loaded lets copies of itself run the programs
# that it is given, and says what went wrong.
COPIES = """
import json, os, sys, traceback
import matplotlib.figure, numba, numpy, tqdm
for program in json.load(sys.stdin):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            exec(program, {})
        except BaseException:
            print(program, traceback.format_exc(), sep="\\n", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def run(program: str, folder: Path, given: str = "", **environment: str) -> str:
    """What `python -c` prints: in another folder, so that what is installed is found."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], input=given, cwd=folder,
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def failures(programs: list[str], folder: Path) -> str:
    """What goes wrong in programs of which each finds none of our modules loaded."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    assert programs
    return run(COPIES, folder, given=json.dumps(programs), OPENBLAS_NUM_THREADS="1")


def modules() -> list[str]:
    """Every module of the package."""
    found = pkgutil.walk_packages(mm.__path__, "minimono.", onerror=lambda name: None)
    return [m.name for m in found if not m.name.endswith("__main__")]


def test_each_public_name_has_a_use() -> None:
    assert set(USES) == set(mm.__all__)


@pytest.mark.parametrize("name", USES)
def test_a_public_name_is_whole_when_it_comes_first(name: str, tmp_path: Path) -> None:
    assert name in USES[name]
    indented = "\n".join(line.removeprefix(" " * 8) for line in USES[name].splitlines())
    assert run(f"import minimono as mm, numpy as np\n{indented}", tmp_path) == ""


WHOLE = """
import sys
if engine := sys.modules.get("minimono.engine.tensor"):
    x = engine.tensor([1.0, 2.0])
    assert ((x == x).data & (x * 2 + 1 > x).data).all()
"""


def public(package: ModuleType) -> list[str]:
    """Its `__all__`, or what it defines itself."""
    own = (n for n, v in vars(package).items() if getattr(v, "__module__", "") == package.__name__)
    return getattr(package, "__all__", [n for n in own if not n.startswith("_")])


def test_every_public_name_of_a_package_can_come_first(tmp_path: Path) -> None:
    """And whoever gets it gets a whole Tensor."""
    programs = [
        f"import minimono as mm; assert mm.{package}.{name} is not None{WHOLE}"
        for package in PACKAGES for name in public(getattr(mm, package))
    ]
    assert len(programs) > 130
    assert failures(programs, tmp_path) == ""


def test_a_program_that_fails_is_told(tmp_path: Path) -> None:
    told = failures(["import minimono", "import minimono.nothing_of_the_kind", "1 / 0"], tmp_path)
    assert told.count("Traceback") == 2


def test_every_module_can_be_imported_first(tmp_path: Path) -> None:
    assert len(modules()) > 80
    assert failures([f"import {module}{WHOLE}" for module in modules()], tmp_path) == ""


def test_modules_can_be_imported_in_any_order(tmp_path: Path) -> None:
    program = """
import importlib, random
modules = {modules}
random.Random({seed}).shuffle(modules)
for module in modules:
    importlib.import_module(module)
"""
    orders = [program.format(modules=modules(), seed=seed) + WHOLE for seed in range(3)]
    assert failures(orders, tmp_path) == ""


def test_a_name_does_not_depend_on_what_was_used_before(tmp_path: Path) -> None:
    """What the public names of a package are after all is loaded, they are at once."""
    program = f"""
import importlib
import minimono as mm
packages = [mm.nn, mm.mono, mm.data, mm.models, mm.engine]
before = [set(dir(package)) for package in packages]
for module in {modules()}:
    importlib.import_module(module)
for package, names in zip(packages, before):
    late = {{name for name in set(dir(package)) - names if not name.startswith("_")}}
    assert not late, (package, late)
"""
    assert failures([program], tmp_path) == ""


@pytest.mark.parametrize(
    "copied",
    [
        "copy.copy(x)", "copy.deepcopy(x)",
        *(f"pickle.loads(pickle.dumps(x, {protocol}))" for protocol in range(6)),
    ],
)
def test_a_tensor_is_copied(copied: str, tmp_path: Path) -> None:
    program = f"""
import copy, pickle
import minimono as mm
x = mm.tensor([1.0, 2.0], dtype="float32", requires_grad=True)
y = {copied}
assert type(y) is mm.Tensor and y.requires_grad and y.dtype == "float32"
assert (y.data == [1, 2]).all() and ((x * y).data == [1, 4]).all()
(y * y).sum().backward()
assert (y.grad == [2, 4]).all() and x.grad is None
"""
    assert run(program, tmp_path) == ""


def test_a_pickle_comes_whole_into_a_process_without_minimono(tmp_path: Path) -> None:
    model = "mm.nn.Linear(2, 1, rng=np.random.default_rng(0))"
    made = f"[{{mm.tensor([1.0, 2.0])}}, {model}, mm.mono.MEmeL(k=1)]"
    write = f"import pathlib, pickle, numpy as np, minimono as mm; made = {made}"
    run(f"{write}\npathlib.Path('x').write_bytes(pickle.dumps(made))", tmp_path)
    read = "import pathlib, pickle; made = pickle.loads(pathlib.Path('x').read_bytes())"
    use = """(x,), model, layer = made
two = x[[[0, 1], [1, 0]]]
print(x * 2, (x == x).data.all(), model(two).shape, layer(two).shape)"""
    assert run(f"{read}\n{use}", tmp_path) == "tensor([2., 4.]) True (2, 1) (2, 2)\n"


def test_a_copy_that_would_lose_the_tape_is_refused() -> None:
    x = mm.tensor([1.0, 2.0], requires_grad=True)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"made by multiply .* tensor\.detach\(\)"):
            copied(x * 2)
        copied((x * 2).detach())
    with mm.no_grad():
        assert (copy.deepcopy(x * 2).data == [2, 4]).all()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["info"]], ids=" ".join)
def test_the_command_starts(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "minimono", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == (0 if arguments else 2)
    assert "Traceback" not in done.stderr


DEMOS = sorted((Path(__file__).resolve().parents[1] / "demos").glob("*.py"))


def test_each_demo_finds_its_names(tmp_path: Path) -> None:
    """What it imports, and each `mm.name.name`, where nothing else is loaded; `make docs` and
    `make demos` run it."""
    programs = []
    for demo in DEMOS:
        tree = ast.parse(demo.read_text(encoding="utf-8"))
        imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        ours = sorted(name for name in names if re.fullmatch(r"mm(\.\w+)+", name))
        assert "minimono" in " ".join(map(ast.unparse, imports))
        programs.append("\n".join([*map(ast.unparse, imports), *ours]))
    assert failures(programs, tmp_path) == ""
