"""Builds the two compiled modules: ``_ops`` (libtorch stable ABI) and ``_codec`` (no torch)."""

import glob
import os
import pathlib
import shutil
import subprocess
import sysconfig
import types

import pybind11
import torch
from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

TORCH = pathlib.Path(torch.__file__).parent
CXX = ["-std=c++20", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi", "-g0"]
# As system headers, so that -Werror is for our own code only.
FOREIGN = [TORCH / "include", pybind11.get_include(), sysconfig.get_path("include")]
CXX += [f"-isystem{folder}" for folder in FOREIGN]
# Torch 2.11 is the oldest whose stable ABI holds all that the bindings call.
STABLE = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DTORCH_STABLE_ONLY"]
NVCC = [
    *("-std=c++17", "-O3", "-lineinfo", "-Xcompiler=-fPIC", "-Icsrc", "-c"),
    *("-Xptxas=-v,-warn-spills,-warn-lmem-usage", "-gencode=arch=compute_90a,code=sm_90a"),
    "-gencode=arch=compute_80,code=[sm_80,compute_80]",
]
CUDART = ["-lcudart_static", "-lrt", "-ldl", "-lpthread"]


def sources(*patterns, without=None):
    """Returns the files under csrc that match a pattern, sorted, but for those of an ending."""
    found = [p for pattern in patterns for p in sorted(glob.glob(f"csrc/{pattern}"))]
    return [p for p in found if not (without and p.endswith(without))]


def nvcc():
    """Returns the CUDA compiler, or None where there is none or SPARSEFL_NO_CUDA=1 forbids it."""
    forbidden = os.environ.get("SPARSEFL_NO_CUDA") == "1"
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return None if forbidden else shutil.which("nvcc") or shutil.which(f"{home}/bin/nvcc")


class BuildExt(build_ext):
    """Adds nvcc's objects to ``_ops`` and names it without a Python tag: it is no Python module."""

    def get_ext_filename(self, name):
        """Returns a module's path, for ``_ops`` one without a tag of the Python version."""
        if name.endswith("_ops"):
            return os.path.join(*name.split(".")) + ".so"
        return super().get_ext_filename(name)

    def build_extensions(self):
        """Compiles with every core, both modules at once: setuptools would take file by file."""
        self.mkpath(self.build_temp)
        self.parallel = self.parallel or True
        jobs = ParallelCompile("SPARSEFL_BUILD_JOBS", default=os.cpu_count() or 1)
        self.compiler.compile = types.MethodType(jobs.function(), self.compiler)
        super().build_extensions()

    def build_extension(self, extension):
        """Compiles the CUDA sources where nvcc is found, then the rest as usual."""
        compiler = nvcc()
        if extension.name.endswith("_ops") and compiler and extension.cuda:
            named = {s: f"{self.build_temp}/{pathlib.Path(s).name}.o" for s in extension.cuda}
            calls = [[compiler, *NVCC, s, "-o", o] for s, o in named.items()]
            if sum(run.wait() != 0 for run in [*map(subprocess.Popen, calls)]):  # all at once
                raise SystemExit("nvcc could not compile the CUDA sources")
            extension.extra_objects += named.values()
            extension.sources += sources("bindings/ops_*_cuda.cpp")
            # Only nvcc knows its toolkit: the file of its name may be a script that calls it.
            said = subprocess.run([compiler, "--dryrun", "x.cu"], capture_output=True, text=True)
            toolkit = pathlib.Path(said.stderr.partition("TOP=")[2].split()[0])
            extension.include_dirs += [str(toolkit / "include")]
            extension.extra_link_args += [f"-L{toolkit}/lib64", *CUDART]
        super().build_extension(extension)


# The sdist and rebuilds follow them.
HEADERS = sources("*/*.h", "*/*.inl", "*/*.cuh")
ops = Extension(
    "sparsefl._ops",
    sources=sources("cpu/*.cpp", "bindings/ops_*.cpp", without="_cuda.cpp"),  # the longest first
    depends=HEADERS,
    include_dirs=["csrc"],
    extra_compile_args=[*CXX, *STABLE],
    library_dirs=[str(TORCH / "lib")],
    extra_link_args=["-Wl,--no-as-needed", "-ltorch_cpu", "-ltorch", "-lc10"],
)
ops.cuda = sources("cuda/*.cu")
codec = Pybind11Extension(
    "sparsefl._codec",
    sources=sources("bindings/codec*.cpp", "codec/*.cpp"),
    depends=HEADERS,
    include_dirs=["csrc"],
    extra_compile_args=CXX,
    extra_link_args=["-pthread"],
)
setup(ext_modules=[ops, codec], cmdclass={"build_ext": BuildExt})
