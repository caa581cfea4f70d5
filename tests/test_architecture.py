"""The shape of the house: imports run one way, six packages and no more at run time, no machine's paths, a line budget."""
import ast
import re
import subprocess
import sys

import pytest
from docs import ROOT, reading_order, tracked_files

PACKAGES = {"torch", "numpy", "scipy", "soundfile", "tokenizers", "tqdm"}
# The only other packages, and only inside these functions: the picture of the demo world (extra `tutorials`), and
# .safetensors files (extra `weights`).
EXCEPTIONS = {("synth", "gallery", "matplotlib"), ("checkpoint", "_safetensors", "safetensors")}
MODULES = sorted(path.stem for path in (ROOT / "mulan_min").glob("*.py") if path.stem != "__init__")
SCRIPTS = ["train", "eval"]
# The path is what teaches MuLan; the rest are rooms beside it: the demo world 1,500 lines, datasets and music folders 900,
# mined text 700, public weights 600, shards 500, the companion paper 400.
TOTAL_LINES, READING_PATH_LINES = 7250, 1750


def source(name):
    folder = ROOT if name in SCRIPTS else ROOT / "mulan_min"
    return (folder / f"{name}.py").read_text(encoding="utf-8")


def imports(code):
    """[(dotted name, function it stands in or "")] of every import, lazy ones too; `from a import b` gives a.b."""
    found = []

    def visit(node, function):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        if isinstance(node, ast.Import):
            found.extend((alias.name, function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            found.extend((f"{node.module}.{alias.name}", function) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(code), "")
    return found


def modules_used(code):
    """Names of the modules of mulan_min that `code` imports; "" for the package itself."""
    return {name.split(".")[1] if name.split(".")[1:2] and name.split(".")[1] in MODULES else ""
            for name, _ in imports(code) if name.split(".")[0] == "mulan_min"}


def upward(order, used_by):
    """Imports that do not lead to a module above in `order`: [(module, what it imports)]."""
    return [(module, used) for module in order for used in sorted(used_by[module])
            if used not in order[:order.index(module)]]


def foreign(name, code):
    """Imports of `code` that a reader would have to install beyond the six packages."""
    allowed = PACKAGES | sys.stdlib_module_names | {"mulan_min"}
    return [(package, function) for package, function in ((dotted.split(".")[0], f) for dotted, f in imports(code))
            if package not in allowed and (name, function, package) not in EXCEPTIONS]


def test_the_checks_can_fail():
    code = "import numpy as np\ndef f():\n    import librosa.filters\n    from mulan_min import mel, MuLan\n"
    assert imports(code) == [("numpy", ""), ("librosa.filters", "f"), ("mulan_min.mel", "f"), ("mulan_min.MuLan", "f")]
    assert modules_used(code + "import mulan_min\nfrom mulan_min.loss import cmc_loss\n") == {"mel", "loss", ""}
    assert foreign("mel", code) == [("librosa", "f")]
    assert foreign("synth", "def gallery():\n    import matplotlib.pyplot as plt\n") == []
    assert foreign("synth", "import matplotlib\n") == [("matplotlib", "")]
    assert upward(["a", "b"], {"a": {"b"}, "b": {"a"}}) == [("a", "b")]
    assert upward(["a"], {"a": {"a"}}) == [("a", "a")] and upward(["a"], {"a": {""}}) == [("a", "")]


def test_imports_lead_only_to_modules_above_in_the_reading_order():
    """No module imports one that comes later, itself, or the package (whose __init__ imports mulan): so no circle either."""
    order = [name for name in reading_order((ROOT / "README.md").read_text(encoding="utf-8")) if name not in SCRIPTS]
    assert sorted(order) == MODULES
    used_by = {module: modules_used(source(module)) for module in order}
    assert upward(order, used_by) == []
    assert not any(name.split(".")[0] in SCRIPTS for module in order for name, _ in imports(source(module)))


@pytest.mark.parametrize("name", MODULES + SCRIPTS)
def test_nothing_is_imported_but_six_packages_and_the_standard_library(name):
    assert foreign(name, source(name)) == []


def test_pyproject_asks_for_the_same_six_packages():
    asked = re.search(r"^dependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M | re.S)[1]
    assert {re.match(r"[\w-]+", name)[0] for name in re.findall(r'"([^"]+)"', asked)} == PACKAGES


# The oracles of the tests, and what else a careless import might reach.
BLOCKED = ["transformers", "librosa", "sklearn", "matplotlib", "timm", "torchaudio", "torchvision", "pandas", "pytest",
           "safetensors", "webdataset"]
WITHOUT_THEM = f"""
import importlib, runpy, sys
for name in {BLOCKED}:
    sys.modules[name] = None            # from here on `import name` raises ImportError
for name in {MODULES}:
    importlib.import_module("mulan_min." + name)
world, run = sys.argv[1:]
import train, eval
train.main(["--preset", "smoke", "--data", world, "--run", run, "--workers", "0"])
eval.main(["--task", "all", "--run", run])
sys.argv = ["train.py", "--help"]
runpy.run_path("train.py", run_name="__main__")
"""


def test_everything_runs_where_the_oracles_are_not_installed(small_world, tmp_path):
    done = subprocess.run([sys.executable, "-c", WITHOUT_THEM, small_world, str(tmp_path / "run")], cwd=ROOT,
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "--temperature-floor" in done.stdout and "ROC-AUC" in done.stdout


def test_no_file_holds_the_path_of_a_machine():
    folders = "|".join(("work", "tmp", "home", "root", "Users", "private", "mnt"))
    path = re.compile(rf"(?<![\w./~-])/(?:{folders})/")      # an absolute path, not the middle of a longer one
    assert path.search("see " + "/" + "work/x") and not path.search("tests/" + "work/x")
    found = []
    for name in tracked_files():
        if (ROOT / name).is_file():
            text = (ROOT / name).read_bytes().decode("utf-8", errors="ignore")
            found += [f"{name}: {line.strip()[:80]}" for line in text.splitlines() if path.search(line)]
    assert not found


def test_the_package_stays_small():
    lines = {name: len(source(name).splitlines()) for name in [*MODULES, "__init__"]}
    assert sum(lines.values()) < TOTAL_LINES, lines
    order = reading_order((ROOT / "README.md").read_text(encoding="utf-8"))
    path = order[:1 + max(order.index("sampler"), order.index("data"))]      # to the training batch
    assert sum(lines[name] for name in path) < READING_PATH_LINES, {name: lines[name] for name in path}
