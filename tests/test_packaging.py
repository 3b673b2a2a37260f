"""What the sdist and the wheel hold, and that they install and run away from the source tree."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_SOURCE = shutil.ignore_patterns(
    *(".*", "build", "dist", "demo", "runs", "*.egg-info", "*.so", "__pycache__")
)
# Runs anywhere the package is installed, and uses both compiled modules.
SMOKE = """
import pathlib, sys
import torch, sparsefl, sparsefl.bench
from sparsefl import codec
assert not pathlib.Path(sparsefl.__file__).is_relative_to(sys.argv[1]), sparsefl.__file__
support = sparsefl.Support.random((33, 65), 0.1)
layer = sparsefl.nn.SparseLinear(65, 33, support)
layer(torch.randn(7, 65)).sum().backward()
assert layer.values.grad.shape == (support.nnz,)
data = codec.encode_support(support.to_mask())
assert codec.decode_support(data, (33, 65)) == support
"""


def run(*command: object, **options: object) -> str:
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Returns a copy of the source tree without anything built."""
    target = tmp_path_factory.mktemp("source") / "sparsefl"
    return pathlib.Path(shutil.copytree(ROOT, target, ignore=NOT_SOURCE))


def build(kind: str, folder: pathlib.Path) -> pathlib.Path:
    """Builds an "sdist" or a "wheel" of a source folder with what is installed here."""
    out = folder / "dist"
    run(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "-o", out, cwd=folder)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="session")
def sdist(source):
    return build("sdist", source)


@pytest.fixture(scope="session")
def wheel(sdist, tmp_path_factory):
    """Builds the wheel from the sdist alone, so that nothing the build needs is missing there."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return build("wheel", unpacked)


def test_sdist_holds_every_source(sdist):
    with tarfile.open(sdist) as archive:
        held = {
            pathlib.PurePath(name).relative_to(archive.getnames()[0]) for name in archive.getnames()
        }
    kinds = {".h", ".inl", ".cuh", ".cpp", ".cu", ".py", ".pyi"}
    wanted = {
        path.relative_to(ROOT)
        for folder in ("csrc", "sparsefl", "bench", "kernels", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds
    }
    wanted |= {pathlib.Path("sparsefl/codec/FORMAT.md"), pathlib.Path("sparsefl/py.typed")}
    wanted |= {pathlib.Path(name) for name in ("LICENSE", "README.md", "CHANGELOG.md", "setup.py")}
    assert not sorted(map(str, wanted - held))


def test_wheel_holds_modules_and_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "sparsefl/_ops.so" in names
    assert [n for n in names if n.startswith("sparsefl/_codec.") and n.endswith(".so")]
    assert {"sparsefl/py.typed", "sparsefl/_codec.pyi", "sparsefl/codec/FORMAT.md"} <= {*names}
    assert "sparsefl/bench/cases.py" in names
    assert "sparsefl/codec/sparsefl_format.h" in names
    golden = {f"sparsefl/codec/golden/{p.name}" for p in (ROOT / "sparsefl/codec/golden").iterdir()}
    assert golden <= {*names}


def test_wheel_installs_under_one_name(wheel):
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    version = CONFIG["project"]["version"]
    assert top == {"sparsefl", f"sparsefl-{version}.dist-info"}


def test_wheel_holds_every_module(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "sparsefl").rglob("*.py")}
    mapped = [path for folder in ("bench", "kernels") for path in (ROOT / folder).rglob("*.py")]
    wanted |= {f"sparsefl/{path.relative_to(ROOT)}" for path in mapped}
    assert held == wanted


def test_wheel_runs_away_from_the_source(wheel, tmp_path):
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", tmp_path / "site", wheel)
    # -I would ignore PYTHONPATH; the empty folder keeps the source tree out of sys.path.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    run(sys.executable, "-c", SMOKE, ROOT, cwd=tmp_path, env=environment)


def test_operators_need_libtorch(wheel, tmp_path):
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is not installed")
    zipfile.ZipFile(wheel).extract("sparsefl/_ops.so", tmp_path)
    needed = run(readelf, "--dynamic", tmp_path / "sparsefl" / "_ops.so")
    assert "[libtorch_cpu.so]" in needed
    # Linked statically, so that the file loads where there is no CUDA, too.
    assert "libcudart" not in needed
    assert "libpython" not in needed


def test_package_list_is_complete():
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for folder in ("sparsefl", "bench", "kernels")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    packages = {
        re.sub(r"^sparsefl\.(bench|kernels)", r"\1", name)
        for name in CONFIG["tool"]["setuptools"]["packages"]
    }
    assert packages == on_disk


@pytest.mark.parametrize("blocked", ["triton", "matplotlib", "tqdm"])
def test_imports_without(blocked, tmp_path):
    block = f"import sys; sys.modules[{blocked!r}] = None\n"
    run(
        sys.executable,
        "-c",
        block + "import sparsefl.nn, sparsefl.fl, sparsefl.cli, sparsefl.kernels",
        cwd=tmp_path,
    )


CPP = sorted(p for f in ("cpu", "codec") for p in (ROOT / "csrc" / f).glob("*.cpp"))


@pytest.mark.parametrize("path", CPP, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_compiles_for_aarch64(path):
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        pytest.skip("aarch64-linux-gnu-g++ is not installed (tools/install_system_tools.sh)")
    flags = ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    run(compiler, *flags, f"-I{ROOT / 'csrc'}", path)


@pytest.fixture
def python(tmp_path):
    """Makes a virtual environment for one test; with torch in it, it is too large to leave."""
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    yield tmp_path / "venv" / "bin" / "python"
    shutil.rmtree(tmp_path / "venv")


# An isolated build would resolve the newest torch, of gigabytes, without the constraints.
PINNED = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}


@pytest.mark.slow
@pytest.mark.parametrize("isolated", [True, False], ids=["isolated", "not-isolated"])
@pytest.mark.parametrize("what", ["folder", "editable", "sdist"])
def test_installs_in_a_fresh_environment(what, isolated, python, source, sdist, tmp_path):
    target = {"folder": [source], "editable": ["--editable", source], "sdist": [sdist]}[what]
    options = []
    if not isolated:
        options = ["--no-build-isolation"]
        run(python, "-m", "pip", "install", *CONFIG["build-system"]["requires"], env=PINNED)
    run(python, "-m", "pip", "install", *options, *target, env=PINNED, cwd=tmp_path)
    run(python, "-c", SMOKE, ROOT, cwd=tmp_path)
    assert "compiled" in run(python, "-m", "sparsefl", "info", cwd=tmp_path)


@pytest.mark.slow
def test_wheel_installs_in_a_fresh_environment(wheel, python, tmp_path):
    run(python, "-m", "pip", "install", wheel, env=PINNED, cwd=tmp_path)
    run(python, "-c", SMOKE, ROOT, cwd=tmp_path)
