"""The rules of structure that a machine can check: imports go downward, files stay short."""

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# A module may import those of a lower layer and of its own package. The longest prefix counts.
LAYERS = {
    "sparsefl._codec": 0,
    "sparsefl.arrays": 0,
    "sparsefl.structure": 0,
    "sparsefl.support": 1,
    "sparsefl.random": 1,
    "sparsefl.allocator": 1,
    "sparsefl.timing": 1,
    "sparsefl.measuring": 1,
    "sparsefl.machine": 1,
    "sparsefl.names": 1,
    "sparsefl.defaults": 1,
    "sparsefl.messages": 1,
    "sparsefl.columns": 1,
    "sparsefl.figures": 1,
    "sparsefl.reference": 2,
    "sparsefl.kernels": 2,
    "sparsefl.ops": 3,
    "sparsefl.nn": 4,
    "sparsefl.pruning": 5,
    "sparsefl.codec": 4,
    "sparsefl.models": 4,
    "sparsefl.data": 4,
    "sparsefl.fl": 6,
    "sparsefl.fl.methods": 7,
    "sparsefl.profiling": 6,
    "sparsefl.report": 8,
    "sparsefl.bench": 9,
    "sparsefl.cli": 10,
    "sparsefl.__main__": 11,
    "sparsefl": 11,
}
# Heavy or optional: imported where they are used, so that importing sparsefl stays cheap.
LAZY = {"dp_accounting", "matplotlib", "torch", "tqdm", "triton"}
NUMPY_ONLY = (
    "sparsefl.arrays",
    "sparsefl.structure",
    "sparsefl.support",
    "sparsefl.random",
    "sparsefl.codec",
)
MAX_FILE_LINES = 400
MAX_METHOD_LINES = 250
MAX_FUNCTION_LINES = 60
MAX_SETUP_LINES = 100
SUFFIXES = {".py", ".h", ".inl", ".cpp", ".cu", ".cuh"}


def python_modules() -> list[pathlib.Path]:
    return [p for p in source_files("sparsefl", "bench", "kernels") if p.suffix == ".py"]


def source_files(*folders: str) -> list[pathlib.Path]:
    return sorted(p for f in folders for p in (ROOT / f).rglob("*") if p.suffix in SUFFIXES)


def identify(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def every(*folders: str, suffix: str = "") -> pytest.MarkDecorator:
    """Runs a test once for each source file of the folders."""
    paths = [p for p in source_files(*folders) if p.suffix.startswith(suffix)]
    return pytest.mark.parametrize("path", paths, ids=identify)


def module_name(path: pathlib.Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] in ("bench", "kernels"):
        parts.insert(0, "sparsefl")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> int:
    while module not in LAYERS:
        assert "." in module, f"{module} has no layer: add it to LAYERS"
        module = module.rpartition(".")[0]
    return LAYERS[module]


def package(module: str) -> str:
    """Returns the part of ``sparsefl`` that the module belongs to, ``sparsefl.ops`` for example."""
    named = [name for name in LAYERS if f"{module}.".startswith(f"{name}.")]
    return max(named, key=len)


def imported(node: ast.AST, path: pathlib.Path) -> Iterator[str]:
    """Yields the absolute names of the modules that an import statement may load."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parent = module_name(path).split(".")
            parent = parent if path.name == "__init__.py" else parent[:-1]
            base = ".".join([*parent[: len(parent) - node.level + 1], *([base] if base else [])])
        # `from package import name` loads package.name where that is a module.
        yield from (known_module(base, alias.name) for alias in node.names)


def known_module(base: str, name: str) -> str:
    full = f"{base}.{name}"
    return full if full in MODULES or full in LAYERS else base


MODULES = {
    module_name(path)
    for path in source_files("sparsefl", "bench", "kernels")
    if path.suffix == ".py"
}


def own_imports(path: pathlib.Path) -> Iterator[str]:
    """Yields the modules of this project that a file imports, those for type checking left out."""
    for node in ast.walk(without_type_checking(parse(path))):
        named = [*imported(node, path), *imported_by_call(node)]
        yield from (name for name in named if name.split(".")[0] == "sparsefl")


def imported_by_call(node: ast.AST) -> Iterator[str]:
    """Yields the module of ``importlib.import_module("...")`` where it is spelt out."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        yield from (a.value for a in node.args if isinstance(a, ast.Constant))


def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def without_type_checking(tree: ast.Module) -> ast.Module:
    """Drops the bodies of ``if TYPE_CHECKING:``, which load nothing."""
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return tree


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Counts the lines of a function, those of its docstring left out."""
    docstring = ast.get_docstring(function, clean=False) or ""
    lines = function.end_lineno - function.lineno + 1
    return lines - len(docstring.splitlines())


@every("sparsefl", "bench", "kernels", suffix=".py")
def test_imports_go_downward(path):
    module = module_name(path)
    wrong = [
        target
        for target in own_imports(path)
        if package(target) != package(module) and layer(target) >= layer(module)
    ]
    assert not wrong, f"{module} must not import {wrong}"


def test_no_import_cycle():
    graph = {
        module_name(p): {name for name in own_imports(p) if name != module_name(p)}
        for p in python_modules()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module in done:
            return
        for target in sorted(graph.get(module, ())):
            visit(target, (*trail, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())


@every("sparsefl", "bench", "kernels", suffix=".py")
def test_imports_inside_functions_are_only_the_heavy_extras(path):
    inner = {
        name
        for function in functions(parse(path))
        for node in ast.walk(function)
        for name in imported(node, path)
        if name.split(".")[0] not in LAZY
    }
    assert not inner


@pytest.mark.parametrize("name", NUMPY_ONLY)
def test_numpy_only_modules_load_no_torch(name):
    modules = [p for p in source_files("sparsefl") if p.suffix == ".py"]
    paths = [p for p in modules if f"{module_name(p)}.".startswith(f"{name}.")]
    assert paths
    for path in paths:
        loaded = {
            target.split(".")[0]
            for node in without_type_checking(parse(path)).body
            for target in imported(node, path)
        }
        assert "torch" not in loaded, identify(path)


@every("sparsefl", "bench", "kernels", "csrc", "tests")
def test_files_stay_short(path):
    if path.name == "contract.py":
        pytest.skip("a copy, kept as it came")
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize(
    "path", sorted((ROOT / "sparsefl/fl/methods").glob("[a-z]*.py")), ids=identify
)
def test_methods_stay_short(path):
    assert len(path.read_text().splitlines()) <= MAX_METHOD_LINES


def test_setup_stays_short():
    assert len((ROOT / "setup.py").read_text().splitlines()) <= MAX_SETUP_LINES


@every("sparsefl", "bench", suffix=".py")
def test_functions_stay_short(path):
    long = {f.name: code_lines(f) for f in functions(parse(path))}
    assert not {name: lines for name, lines in long.items() if lines > MAX_FUNCTION_LINES}


@every("sparsefl", "bench", suffix=".py")
def test_device_choice_is_left_to_the_dispatcher(path):
    asked = [
        n.lineno
        for n in ast.walk(parse(path))
        if isinstance(n, ast.Attribute) and n.attr == "is_cuda"
    ]
    assert not asked, f"lines {asked} ask for is_cuda"


@every("sparsefl", "bench", suffix=".py")
def test_nothing_is_pickled(path):
    loaded = {name for node in ast.walk(parse(path)) for name in imported(node, path)}
    # The one reader of pickles, of CIFAR's official files; it imports nothing that they name.
    allowed = {"pickle"} if path.name == "_restricted_pickle.py" else set()
    assert not (loaded - allowed) & {"pickle", "cloudpickle", "dill", "marshal", "shelve"}


@every("csrc/cpu", "csrc/codec")
def test_kernels_and_codec_know_neither_torch_nor_python(path):
    included = re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text())
    assert not [
        name for name in included if re.match(r"torch/|ATen/|c10/|pybind11/|Python\.h", name)
    ]


@every("sparsefl", "bench", "kernels", "csrc", "tests")
def test_no_catch_all_file_names(path):
    assert path.stem not in {"utils", "helpers", "common", "misc"}


def test_tests_are_no_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_builds_are_portable_and_exact():
    text = (ROOT / "setup.py").read_text()
    assert "-march=native" not in text
    assert "-ffast-math" not in text
