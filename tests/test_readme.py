"""README.md and the chapters tell the truth: their commands run, their tree is the repository's, their links lead somewhere."""
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from docs import ROOT, blocks, links, reading_order, script, tracked_files, tree, tree_faults

README = ROOT / "README.md"
SECONDS = 240       # for one block, at most

SAMPLE = """# A title

![before and after](a/picture.png) and a [chapter](tutorials/00.md#loss), a [site](https://example.org), [below](#files)

```bash
pip install -e . && python train.py --audio ast      # five minutes
```

1. in a list:

   ```bash
   # a comment
   python train.py --preset laptop --audio resnet50 \\
       --seed 1
   python eval.py && ls
   ```

```python
table[0](not_a_link.md)
```

## Files

```text
README.md            this
mulan_min/           the package
  __init__.py        two rooms
  mel.py             one  room
tests/               mirrors mulan_min/
  docs.py
  test_*.py
  ...
figures/             pictures
train.py  eval.py    the scripts
```

## Read in this order

| | file | what |
|---|---|---|
| 1 | `config.py` | settings, used by `train.py` |
| 2 | [mel.py](mulan_min/mel.py) | the ear |
| 3 | `demo/world.py` | a world |

| not | after `other.md` |

## Later

| x | `loss.py` |
"""


def readme():
    return README.read_text(encoding="utf-8")


# ---- the reading itself ----------------------------------------------------------------


def test_blocks_are_found_by_language_and_dedented():
    bash = blocks(SAMPLE, "bash")
    assert len(bash) == 2 and bash[1].startswith("# a comment\npython train.py")
    assert blocks(SAMPLE, "python") == ["table[0](not_a_link.md)\n"]


def test_links_are_those_to_files():
    assert links(SAMPLE) == ["a/picture.png", "tutorials/00.md", "mulan_min/mel.py"]
    assert links('<img src="a.png" width="9"> <a href="https://example.org">x</a> `[no](b.md)`') == ["a.png"]


def test_reading_order_is_the_first_column_of_its_own_section():
    assert reading_order(SAMPLE) == ["config", "mel", "demo/world"]
    assert reading_order("## Files\n\n| `mel.py` | x |\n") == []


def test_tree_faults_go_both_ways():
    entries = tree(SAMPLE)
    assert entries == ["README.md", "mulan_min/__init__.py", "mulan_min/mel.py", "tests/docs.py", "tests/test_*.py", "tests/*",
                       "figures/*", "train.py", "eval.py"]
    files = ["README.md", "mulan_min/__init__.py", "mulan_min/mel.py", "tests/docs.py", "tests/test_a.py", "tests/data/x",
             "figures/a.png", "train.py", "eval.py"]
    assert tree_faults(entries, files) == []
    assert tree_faults(entries, [f for f in files if f != "mulan_min/mel.py"]) == [
        "the tree shows mulan_min/mel.py, which is not in git"]
    assert tree_faults(entries, [*files, "mulan_min/new.py", "LICENSE"]) == [
        "mulan_min/new.py is in git but not in the tree", "LICENSE is in git but not in the tree"]


def test_scripts_leave_out_the_installation_and_train_small():
    first, second = (script(block, "/bin/py") for block in blocks(SAMPLE, "bash"))
    assert first == "'/bin/py' train.py --preset smoke --audio ast      # five minutes"
    assert second == "'/bin/py' train.py --preset smoke --audio resnet50 --seed 1\n'/bin/py' eval.py\nls"
    assert script("pip install -e '.[test]' && pytest\n", "py") == ""


# ---- the real README -------------------------------------------------------------------


def tagged_music(folder):
    """24 short tracks of six albums that say who plays what, as a music collection does."""
    rng = np.random.default_rng(0)
    for i in range(24):
        path = folder / f"{'red blue green black white gold'.split()[i // 4]} barn" / f"{i % 4 + 1:02d} track.ogg"
        path.parent.mkdir(parents=True, exist_ok=True)
        with soundfile.SoundFile(path, "w", 16000, 1, format="OGG", subtype="VORBIS") as file:
            file.title, file.artist, file.album = f"Song of the day {i}", f"Player {i // 4}", f"Album {'ABCDEF'[i // 4]}"
            file.genre, file.comment = ("Rock", "Folk", "Ambient")[i % 3], f"Recorded in a barn on day {i}."
            file.write(0.1 * rng.standard_normal(11 * 16000))


def fixture_paths(commands):
    """Where the README's commands expect music that is the reader's own."""
    return [shlex.split(line, comments=True)[4] for line in commands.splitlines()
            if re.search(r"-m mulan_min\.datasets folder ", line)]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, small_world):
    """A checkout of what is in git, with the smoke preset's demo world in data/ and no run yet."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in tracked_files():
        if (ROOT / path).is_file() and not path.startswith("tests/"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
    (folder / "data").mkdir()
    (folder / "data" / "demo-72").symlink_to(small_world)
    return folder


def execute(command, folder):
    # No browser, no home of the reader's, one thread: other tests may run at the same time.
    environment = {**os.environ, "HOME": str(folder / "home"), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_block_of_the_readme_runs(fresh):
    """In one checkout and in the order of the page, as a reader would: the shell's first, then Python's in one session."""
    scripts = list(filter(None, (script(block, sys.executable) for block in blocks(readme(), "bash"))))
    everything = "\n".join(scripts)
    for needed in ("train.py", "--audio ast", "--audio resnet50", "eval.py", "-m mulan_min.datasets folder"):
        assert needed in everything, f"README.md no longer shows {needed}"
    for path in fixture_paths(everything):
        tagged_music(fresh / "home" / path[2:] if path.startswith("~/") else fresh / path)
    for commands in scripts:
        execute(["bash", "-euo", "pipefail", "-c", commands], fresh)
    assert list((fresh / "runs").glob("*/best.pt")) and list((fresh / "runs").glob("*/eval/*.json"))

    python = "\n".join(blocks(readme(), "python"))
    assert "MuLan.load" in python and "embed_audio" in python
    for name in re.findall(r"[\"']([\w/ .-]+\.(?:mp3|wav|flac|ogg))[\"']", python):
        if not (fresh / name).exists():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(fresh / name, np.sin(np.arange(12 * 16000) / 10), 16000)
    execute([sys.executable, "-c", python], fresh)


def test_the_file_tree_is_the_repository():
    assert tree_faults(tree(readme()), tracked_files()) == []


def test_the_reading_order_names_every_module_once():
    order = [name for name in reading_order(readme()) if name not in ("train", "eval")]
    modules = [path.relative_to(ROOT / "mulan_min").with_suffix("").as_posix() for path in (ROOT / "mulan_min").rglob("*.py")]
    assert sorted(order) == sorted(name for name in modules if not name.endswith("__"))


@pytest.mark.parametrize("page", [README.name, *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("tutorials/*.md")))])
def test_links_and_pictures_are_there(page):
    files = tracked_files()
    folders = {str(parent) for path in files for parent in Path(path).parents}
    found = links((ROOT / page).read_text(encoding="utf-8"))
    targets = {target: os.path.relpath((ROOT / page).parent / target, ROOT) for target in found}
    lost = [target for target, path in targets.items() if path not in files and path not in folders]
    assert not lost, f"{page} leads to what is not in git: {lost}"
