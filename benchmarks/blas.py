"""Which processor each library's matrix products are made for: is it older than this one?

A library chooses its kernels when it is loaded, and speed hangs on them. Compared are the widest
instructions for floating point that kernels use and that the processor has. A processor may be
newer in other ways; this says nothing about those. Products of float32 and float64 gain nothing
from Intel's matrix tiles (AMX) or bfloat16, so these are left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

# Narrow to wide, with the flags of Linux's /proc/cpuinfo that all must be there.
ON_X86 = {
    "SSE": {"sse2"},
    "AVX": {"avx"},
    "AVX2": {"avx2", "fma"},
    "AVX-512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
}
ON_ARM = {"NEON": {"asimd"}, "SVE": {"asimd", "sve"}}
# OpenBLAS's names of kernels, as threadpoolctl tells them, by the widest of these that they use.
OPENBLAS = {
    "AVX-512": "skylakex cooperlake sapphirerapids",
    "AVX2": "haswell zen excavator",
    "AVX": "sandybridge bulldozer piledriver steamroller",
    "SSE": "prescott core2 penryn dunnington atom nehalem athlon opteron opteron_sse3 barcelona "
           "bobcat nano katmai coppermine northwood banias",
    "SVE": "armv8sve neoversev1 neoversen2 a64fx armv9sme",
    "NEON": "armv8 cortexa53 cortexa55 cortexa57 cortexa72 cortexa73 cortexa76 cortexx1 cortexx2 "
            "neoversen1 thunderx thunderx2t99 thunderx3t110 tsv110 emag8180 falkor vortex "
            "vortexm4 ft2000",
}
NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Kernels:
    """What a framework's products run on: `of` names the kernels, `instructions` their widest."""

    framework: str
    library: str
    of: str
    instructions: str | None  # None: the library does not say


def widest(cpuinfo: str) -> str | None:
    """The widest instructions of the processor that /proc/cpuinfo describes; None: not known."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    have = [name for sets in (ON_X86, ON_ARM) for name, wanted in sets.items() if wanted <= flags]
    return have[-1] if have else None


def of_openblas(architecture: str) -> str | None:
    """The widest instructions of OpenBLAS's kernels with that name; None for one not known here."""
    names = {name: wide for wide, all_of in OPENBLAS.items() for name in all_of.split()}
    return names.get(architecture.lower())


def in_text(said: str) -> str | None:
    """The widest instructions that a library's own sentence names."""
    for name in [*ON_X86, *ON_ARM][::-1]:
        if re.search(rf"\b{name.replace('-', '-?')}(?![0-9])", said, re.IGNORECASE):
            return name
    return None


def warnings(found: Sequence[Kernels], processor: str | None) -> list[str]:
    """A sentence for each library whose kernels are older than the processor."""
    order = [*ON_X86] if processor in ON_X86 else [*ON_ARM]
    return [
        f"{k.framework}: {k.library} runs kernels for {k.of}, which use {k.instructions}; this "
        f"processor has {processor}. Its products are slower than they could be"
        for k in found
        if processor in order and k.instructions in order
        and order.index(k.instructions) < order.index(processor)
    ]


# ---- asking the libraries ----------------------------------------------------------------------


def of_numpy() -> list[Kernels]:
    """For a process of its own, which has the environment of those that are measured."""
    import numpy  # noqa: F401  (it loads its BLAS, the only one in a fresh process)

    try:
        import threadpoolctl
    except ImportError:
        return [Kernels("NumPy", "BLAS", f"{NOT_KNOWN}: threadpoolctl is not installed", None)]
    found = []
    for library in threadpoolctl.threadpool_info():
        if library["user_api"] == "blas":
            of = library.get("architecture", NOT_KNOWN)
            instructions = of_openblas(of) if library["internal_api"] == "openblas" else in_text(of)
            name = f"{library['internal_api']} {library['version']}"
            found.append(Kernels("NumPy", name, of, instructions))
    return found or [Kernels("NumPy", "BLAS", NOT_KNOWN, None)]


# A product for MKL, a convolution for oneDNN: both say at their first call what they run on.
_TORCH = """
import torch
print("ATen", torch.backends.cpu.get_cpu_capability(), flush=True)
torch.ones(64, 64) @ torch.ones(64, 64)
torch.conv2d(torch.ones(8, 16, 32, 32), torch.ones(16, 16, 3, 3))
"""


def of_torch() -> list[Kernels]:
    """PyTorch's own kernels, MKL's (products) and oneDNN's (convolutions, compiled products)."""
    run = subprocess.run(
        [sys.executable, "-c", _TORCH], capture_output=True, text=True, check=True,
        env=os.environ | {"MKL_VERBOSE": "1", "ONEDNN_VERBOSE": "1"},
    )
    return in_output_of_torch(run.stdout)


def in_output_of_torch(output: str) -> list[Kernels]:
    """What PyTorch and its libraries printed about themselves."""
    found = []
    for name, pattern in (
        ("its own", r"^(ATen) (.*)$"),
        ("MKL", r"^MKL_VERBOSE (?:oneMKL|Intel\(R\) MKL) (.*?) Product.*?architecture (.*?),"),
        ("oneDNN", r"^onednn_verbose,(?:v1,)?info,(cpu),(?:isa:)(.*)$"),
    ):
        said = re.search(pattern, output, re.MULTILINE)
        if said:
            library = f"MKL {said[1]}" if name == "MKL" else name
            found.append(Kernels("PyTorch", library, said[2].strip(), in_text(said[2])))
    return found
