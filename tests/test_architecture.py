"""The shape of the house: three rings whose imports run one way, six packages at run time, no machine's paths, a line budget."""
import ast
import re
import subprocess
import sys

import pytest
from docs import ROOT, reading_order, tracked_files

PACKAGES = {"torch", "numpy", "scipy", "soundfile", "tokenizers", "tqdm"}
EXCEPTIONS = {("checkpoint", "_safetensors", "safetensors")}      # module, function, package: the extra `weights`
FOLDERS = ("demo", "file_tags", "datasets", "mining", "shards", "weights", "companion")
FILES = {path.relative_to(ROOT / "mulan_min").with_suffix("").as_posix(): path for path in (ROOT / "mulan_min").rglob("*.py")}
SCRIPTS = {name: ROOT / f"{name}.py" for name in ("train", "eval")}
MODULES = sorted(name for name in FILES if not name.endswith("__"))      # without __init__ and __main__
# Lines at most, never raised to make room: if something new does not fit, something else gets simpler.
BOUNDS = {"train.py": 300, "eval.py": 150, "ring 1": 3500, "demo": 1200, "file_tags": 145, "datasets": 800, "mining": 600, "shards": 500,
          "weights": 560, "companion": 450, "to the batch": 1750, "all": 8000}
LONGEST_FUNCTION = 120      # lines, in train.py


def source(name):
    return (FILES | SCRIPTS)[name].read_text(encoding="utf-8")


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
    """Modules of mulan_min that `code` imports, as "mel" or "demo/world"; "" for the package itself or a folder of it."""
    used = set()
    for parts in (name.split(".")[1:] for name, _ in imports(code) if name.split(".")[0] == "mulan_min"):
        paths = ["/".join(parts[:depth]) for depth in (2, 1)]
        used.add(next((path for path in paths if path in MODULES), ""))
    return used


def upward(order, used_by):
    """Imports that do not lead to a module above in `order`: [(module, what it imports)]."""
    return [(module, used) for module in order for used in sorted(used_by[module])
            if used not in order[:order.index(module)]]


def foreign(name, code):
    """Imports of `code` that a reader would have to install beyond the six packages."""
    allowed = PACKAGES | sys.stdlib_module_names | {"mulan_min"}
    return [(package, function) for package, function in ((dotted.split(".")[0], f) for dotted, f in imports(code))
            if package not in allowed and (name, function, package) not in EXCEPTIONS]


def longest_function(code):
    return max(node.end_lineno - node.lineno + 1 for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef))


def order():
    return [name for name in reading_order((ROOT / "README.md").read_text(encoding="utf-8")) if name not in SCRIPTS]


def test_the_checks_can_fail():
    code = "import numpy as np\ndef f():\n    import librosa.filters\n    from mulan_min import mel, MuLan\n"
    assert imports(code) == [("numpy", ""), ("librosa.filters", "f"), ("mulan_min.mel", "f"), ("mulan_min.MuLan", "f")]
    more = "import mulan_min\nfrom mulan_min.loss import cmc_loss\nfrom mulan_min.demo import world\nfrom mulan_min.demo.words import tags\n"
    assert modules_used(code + more) == {"mel", "loss", "demo/world", "demo/words", ""}
    assert foreign("mel", code) == [("librosa", "f")]
    assert foreign("checkpoint", "def _safetensors():\n    import safetensors.torch\n") == []
    assert foreign("checkpoint", "import safetensors\n") == [("safetensors", "")]
    assert upward(["a", "b"], {"a": {"b"}, "b": {"a"}}) == [("a", "b")]
    assert upward(["a"], {"a": {"a"}}) == [("a", "a")] and upward(["a"], {"a": {""}}) == [("a", "")]
    assert longest_function("def f():\n    x = 1\n\n    return x\n\n\ndef g(): pass\n") == 4


def test_imports_lead_only_to_modules_above_in_the_reading_order():
    """No module imports one that comes later, itself, or the package (whose __init__ imports mulan): so no circle either."""
    assert sorted(order()) == MODULES
    used_by = {module: modules_used(source(module)) for module in MODULES}
    assert upward(order(), used_by) == []
    assert not any(name.split(".")[0] in SCRIPTS for module in FILES for name, _ in imports(source(module)))


def test_the_paper_imports_nothing_from_what_feeds_it():
    """Ring 1, the flat modules, comes before the folders and knows none of them."""
    ring_1 = [name for name in MODULES if "/" not in name]
    assert len(ring_1) > 20 and {name.split("/")[0] for name in MODULES if "/" in name} == set(FOLDERS)
    assert {name: used for name in ring_1 if (used := modules_used(source(name)) - set(ring_1))} == {}


@pytest.mark.parametrize("name", [*FILES, *SCRIPTS])
def test_nothing_is_imported_but_six_packages_and_the_standard_library(name):
    assert foreign(name, source(name)) == []


def test_pyproject_asks_for_the_same_six_packages():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    asked = re.search(r"^dependencies = \[(.*?)\]", pyproject, re.M | re.S)[1]
    assert {re.match(r"[\w-]+", name)[0] for name in re.findall(r'"([^"]+)"', asked)} == PACKAGES
    installed = re.search(r"^packages = \[(.*?)\]", pyproject, re.M | re.S)[1]
    assert set(re.findall(r'"([^"]+)"', installed)) == {"mulan_min", *(f"mulan_min.{folder}" for folder in FOLDERS)}


# The oracles of the tests, and what else a careless import might reach.
BLOCKED = ["transformers", "librosa", "sklearn", "matplotlib", "timm", "torchaudio", "torchvision", "pandas", "pytest",
           "safetensors", "webdataset", "mutagen"]
WITHOUT_THEM = f"""
import importlib, runpy, sys
for name in {BLOCKED}:
    sys.modules[name] = None            # from here on `import name` raises ImportError
for name in {MODULES}:
    importlib.import_module("mulan_min." + name.replace("/", "."))
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


def test_the_house_stays_small():
    lines = {f"{name}.py": len(source(name).splitlines()) for name in [*FILES, *SCRIPTS]}
    sums = {folder: sum(count for name, count in lines.items() if name.startswith(f"{folder}/")) for folder in FOLDERS}
    scripts = {f"{name}.py": lines[f"{name}.py"] for name in SCRIPTS}
    total = sum(lines.values())
    path = order()[:order().index("data") + 1]      # what is read up to the training batch
    sums |= {**scripts, "all": total, "ring 1": total - sum(sums.values()) - sum(scripts.values()),
             "to the batch": sum(lines[f"{name}.py"] for name in path)}
    assert sums.keys() == BOUNDS.keys()
    assert {name: count for name, count in sums.items() if count > BOUNDS[name]} == {}
    assert longest_function(source("train")) <= LONGEST_FUNCTION
