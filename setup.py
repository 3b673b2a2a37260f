"""Builds the two compiled modules: ``_ops`` (libtorch stable ABI) and ``_codec`` (no torch)."""

import glob
import os
import pathlib
import shutil
import subprocess
import sysconfig

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
    *("-std=c++17", "-O3", "-lineinfo", "-Xcompiler=-fPIC"),
    "-Xptxas=-v,-warn-spills,-warn-lmem-usage",
    *("-gencode=arch=compute_90a,code=sm_90a", "-gencode=arch=compute_80,code=sm_80"),
    "-gencode=arch=compute_80,code=compute_80",
]


def sources(*patterns, without=None):
    """Returns the files under csrc that match a pattern, sorted, but for those of an ending."""
    found = [p for pattern in patterns for p in sorted(glob.glob(f"csrc/{pattern}"))]
    return [p for p in found if not (without and p.endswith(without))]


def headers(*folders):
    """Returns the headers of the folders, which the sdist and rebuilds must follow."""
    return sources(*(f"{folder}/*.{kind}" for folder in folders for kind in ("h", "inl", "cuh")))


def nvcc():
    """Returns the CUDA compiler, or None where there is none or SPARSEFL_NO_CUDA=1 forbids it."""
    if os.environ.get("SPARSEFL_NO_CUDA") == "1":
        return None
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc") or shutil.which(f"{home}/bin/nvcc")


class BuildExt(build_ext):
    """Adds nvcc's objects to ``_ops`` and names it without a Python tag: it is no Python module."""

    def get_ext_filename(self, name):
        """Returns a module's path, for ``_ops`` one without a tag of the Python version."""
        if name.endswith("_ops"):
            return os.path.join(*name.split(".")) + ".so"
        return super().get_ext_filename(name)

    def build_extension(self, extension):
        """Compiles the CUDA sources where nvcc is found, then the rest as usual."""
        compiler = nvcc()
        if extension.name.endswith("_ops") and compiler and extension.cuda:
            os.makedirs(self.build_temp, exist_ok=True)
            for source in extension.cuda:
                target = os.path.join(self.build_temp, pathlib.Path(source).stem + ".cu.o")
                subprocess.run([compiler, *NVCC, "-Icsrc", "-c", source, "-o", target], check=True)
                extension.extra_objects.append(target)
            extension.sources += sources("bindings/ops_*_cuda.cpp")
            extension.include_dirs += [str(pathlib.Path(compiler).resolve().parents[1] / "include")]
            extension.extra_link_args += [
                f"-L{pathlib.Path(compiler).resolve().parents[1] / 'lib64'}",
                *("-lcudart_static", "-lrt", "-ldl", "-lpthread"),
            ]
        super().build_extension(extension)


ops = Extension(
    "sparsefl._ops",
    sources=sources("bindings/ops_*.cpp", "cpu/*.cpp", without="_cuda.cpp"),
    depends=headers("cpu", "bindings", "cuda"),
    include_dirs=["csrc"],
    extra_compile_args=[*CXX, *STABLE],
    library_dirs=[str(TORCH / "lib")],
    extra_link_args=["-Wl,--no-as-needed", "-ltorch_cpu", "-ltorch", "-lc10"],
)
ops.cuda = sources("cuda/*.cu")
codec = Pybind11Extension(
    "sparsefl._codec",
    sources=sources("bindings/codec*.cpp", "codec/*.cpp"),
    depends=headers("codec", "bindings", "cpu"),
    include_dirs=["csrc"],
    extra_compile_args=CXX,
    cxx_std=20,
)
with ParallelCompile("SPARSEFL_BUILD_JOBS", default=os.cpu_count() or 1):
    setup(ext_modules=[ops, codec], cmdclass={"build_ext": BuildExt})
