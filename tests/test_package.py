"""The package as a whole: what an import costs, and which way imports point."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import posebook

PACKAGE = Path(posebook.__file__).parent
ORDER = ("files", "interrupts", "exercises", "skeleton", "geometry", "metrics", "datasets", "synthesis", "augment",
         "targets", "networks", "pictorial", "floors", "parallel", "training", "film", "lifting", "explain", "draw",
         "interactive", "results", "sweep", "limits", "claims", "families", "batch", "export", "__main__")
"""A module may import those before it, never one after it. A new module is put into its place here."""

HEAVY = ("scipy", "PIL", "pyarrow", "matplotlib", "tqdm", "safetensors", "embreex", "torchvision", "pandas",
         "av", "cdflib", "h5py", "papermill", "nbformat", "distributed", "dask")
PROBE = """
import json, sys
loaded = {}
def note(name, what):
    __import__(what)
    loaded[name] = [m for m in sys.modules]
note("nothing", "sys")
note("posebook", "posebook")
note("libraries", "torch")
for name in ("skeleton", "geometry", "metrics", "augment", "targets", "networks", "datasets", "floors", "training",
             "results"):
    note(name, f"posebook.{name}")
print(json.dumps(loaded))
"""


def test_an_import_loads_nothing_but_torch_and_numpy():
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    answer = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=True)
    loaded = {name: set(modules) for name, modules in json.loads(answer.stdout).items()}
    assert {m.split(".")[0] for m in loaded["posebook"] - loaded["nothing"]} == {"posebook"}    # not even a submodule
    assert "torch" in loaded["metrics"] and "numpy" in loaded["metrics"]
    for name, modules in loaded.items():
        more = {m.split(".")[0] for m in modules - loaded["libraries"]}
        assert not more & set(HEAVY), f"importing posebook.{name} also loads {sorted(more & set(HEAVY))}"
    foreign = {m.split(".")[0] for m in loaded["results"] - loaded["libraries"]} - set(sys.stdlib_module_names)
    assert foreign <= {"posebook", "torch", "numpy"}, f"other libraries come along: {sorted(foreign)}"


def imported(path: Path) -> set[str]:
    """Modules of posebook that a file imports anywhere in it, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path} uses a relative import; write posebook.{node.module}")
        elif isinstance(node, ast.ImportFrom) and node.module == "posebook":
            names = [f"posebook.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("posebook.")}
    return found


def test_imports_point_one_way():
    files = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py"]
    assert len(files) > 15
    seen = set()
    for path in files:
        module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert module in ORDER, f"{path} is a new module: give it a place in ORDER"
        seen.add(module)
        for name in imported(path) - {module}:
            assert name in ORDER, f"{path} imports posebook.{name}, which is not in ORDER"
            assert ORDER.index(name) < ORDER.index(module), f"{path} imports posebook.{name}, which comes after it"
    assert seen == set(ORDER)


def test_the_package_imports_no_submodule_of_itself():
    assert not imported(PACKAGE / "__init__.py")


def undocumented(node: ast.AST, name: str) -> list[str]:
    """What has no docstring and can be reached from outside: a module, its functions and classes, their methods."""
    inside = [child for child in node.body if isinstance(child, ast.FunctionDef | ast.ClassDef)
              and not child.name.startswith("_")] if isinstance(node, ast.Module | ast.ClassDef) else []
    return ([] if ast.get_docstring(node) else [name]) + [
        line for child in inside for line in undocumented(child, f"{name}.{child.name}")]


def test_all_that_is_public_says_what_it_is():
    assert undocumented(ast.parse("def f(): pass\nclass A:\n    'a'\n    def g(self): pass\n    def _h(self): pass"),
                        "m") == ["m", "m.f", "m.A.g"]
    missing = [line for path in PACKAGE.rglob("*.py")
               for line in undocumented(ast.parse(path.read_text()), str(path.relative_to(PACKAGE)))]
    assert not missing, f"no docstring: {', '.join(missing)}"


def test_the_version_is_the_one_of_the_project_file():
    import tomllib
    project = PACKAGE.parent / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == posebook.__version__
