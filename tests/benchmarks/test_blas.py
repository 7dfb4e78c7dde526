"""Everybody gets this processor as it is: nothing holds a BLAS back, and an older one is told."""

import os
import subprocess
import sys
from typing import Any

import pytest

from benchmarks import blas, measures, rounds, run
from minimono import machine

MACHINE = {"processor": "a processor, 2 cores"}


def _held() -> dict[str, str]:
    """In a child: what it finds of the variables that hold a library back."""
    names = (*rounds.OLDER, *rounds.FEWER_THREADS)
    return {name: os.environ[name] for name in names if name in os.environ}


def test_children_run_without_what_holds_a_library_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY"):
        assert name in (*rounds.OLDER, *rounds.FEWER_THREADS)
        monkeypatch.setenv(name, "1")
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(run, "of_machine", lambda: (MACHINE, []))

    def look(run_: run.Run) -> dict[str, Any]:
        seen.append(measures.alone(_held))
        script = "import os; print(*os.environ)"  # as imports are timed, and as peers begin
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert not {*rounds.OLDER, *rounds.FEWER_THREADS} & {*told.stdout.split()}
        return {}

    monkeypatch.setitem(run.PIECES, "memory", look)
    run.measured(["memory"], False, 3, lambda line: None, lambda name, piece: None)
    assert seen == [{}]
    assert os.environ["OPENBLAS_CORETYPE"] == os.environ["OMP_NUM_THREADS"] == "1"  # ours stays


# Recorded lines of /proc/cpuinfo, without the flags that say nothing here.
CPUINFO = {
    "AMD EPYC, family 25, in a virtual machine": (
        "flags\t\t: fpu sse2 ht pni ssse3 fma cx16 sse4_1 sse4_2 avx f16c avx2 bmi2 vaes", "AVX2"),
    "AMD EPYC 9654": (
        "flags\t\t: fpu sse2 avx fma avx2 avx512f avx512dq avx512cd avx512bw avx512vl avx512_bf16",
        "AVX-512"),
    "Intel Xeon Phi 7250": (  # half of AVX-512, which OpenBLAS's kernels do not run on
        "flags\t\t: fpu sse2 avx fma avx2 avx512f avx512pf avx512er avx512cd", "AVX2"),
    "Intel Xeon E5-2670": ("flags\t\t: fpu sse2 ssse3 sse4_1 sse4_2 avx", "AVX"),
    "Intel Xeon X5570": ("flags\t\t: fpu sse sse2 ht pni ssse3 sse4_1 sse4_2", "SSE"),
    "Neoverse-N1": ("Features\t: fp asimd evtstrm aes crc32 atomics", "NEON"),
    "Neoverse-V1": ("Features\t: fp asimd evtstrm aes sve asimdfhm", "SVE"),
}


@pytest.mark.parametrize("name", CPUINFO)
def test_the_widest_instructions_of_a_processor(name: str) -> None:
    line, expected = CPUINFO[name]
    assert blas.widest(f"processor\t: 0\nmodel name\t: {name}\n{line}\nbugs\t\t: x") == expected
    assert blas.widest("") is None
    assert blas.widest("flags\t: fpu") is None


@pytest.mark.parametrize(
    ("kernels", "processor", "older"),
    [
        ("Haswell", "AVX-512", True), ("Zen", "AVX-512", True), ("Haswell", "AVX2", False),
        ("SkylakeX", "AVX-512", False), ("SapphireRapids", "AVX-512", False),
        ("Prescott", "AVX2", True), ("Sandybridge", "AVX2", True), ("SkylakeX", "AVX2", False),
        ("neoversen1", "SVE", True), ("neoversev1", "SVE", False), ("armv8", "NEON", False),
        ("a kernel of next year", "AVX-512", False), ("Haswell", None, False),
    ],
)
def test_a_warning_where_blas_is_older(kernels: str, processor: str | None, older: bool) -> None:
    found = blas.Kernels("NumPy", "openblas 0.3.31", kernels, blas.of_openblas(kernels))
    warned = blas.warnings([found], processor)
    assert len(warned) == older
    assert not older or warned[0].startswith(f"NumPy: openblas 0.3.31 runs kernels for {kernels}, ")


def test_what_pytorch_says_about_its_libraries() -> None:
    output = """ATen AVX2
MKL_VERBOSE oneMKL 2024.0 Update 2 Product build 20240605 for Intel(R) 64 architecture Intel(R) \
Architecture processors, Lnx 2.45GHz lp64 gnu_thread
MKL_VERBOSE SGEMM(N,N,64,64,64,0x7ffc27ed4f60) 20.09ms CNR:OFF Dyn:1 FastMM:1 TID:0  NThr:2
onednn_verbose,v1,info,oneDNN v3.12.0 (commit 80afa71049cd69a3df32adcccb623b12cd7baa22)
onednn_verbose,v1,info,cpu,runtime:OpenMP,nthr:2
onednn_verbose,v1,info,cpu,isa:Intel AVX2
"""
    assert [(k.library, k.instructions) for k in blas.in_output_of_torch(output)] == [
        ("its own", "AVX2"), ("MKL 2024.0 Update 2", None), ("oneDNN", "AVX2")
    ]
    wide = output.replace("Intel(R) Architecture processors", (
        "Intel(R) Advanced Vector Extensions 512 (Intel(R) AVX-512) enabled processors"
    )).replace("isa:Intel AVX2", "isa:Intel AVX-512 with Intel DL Boost")
    found = blas.in_output_of_torch(wide)
    assert [k.instructions for k in found] == ["AVX2", "AVX-512", "AVX-512"]
    assert len(blas.warnings(found, "AVX-512")) == 1  # ATen's
    assert blas.in_output_of_torch("") == []


def test_numpys_blas_says_for_which_processor_it_is() -> None:
    pytest.importorskip("threadpoolctl")
    (found,) = measures.alone(blas.of_numpy)
    if found.library.startswith("openblas"):
        assert machine.blas_described().endswith(f"kernels for {found.of}")
        assert found.instructions == blas.of_openblas(found.of) is not None


def test_blas_says_for_which_processor_it_is() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    described = machine.blas_described()
    for library in threadpoolctl.threadpool_info():
        if "numpy" in library["filepath"] and library["internal_api"] == "openblas":
            assert described.endswith(f"kernels for {library['architecture']}")
            assert library["version"].split(".dev")[0] in described
