"""Run a chapter and write what it says and shows as a page: python tutorials/render.py 00_whole_system.py [--fast]

A chapter is plain Python in percent format: `# %%` starts a cell of code, `# %% [markdown]` one of text in comments. All
cells run in one namespace. NAME.md gets the text, the code and what it printed, figures/NAME_1.png, ... its pictures.
--fast (or FAST=1) runs the chapter's small size, as the tests do, and writes nothing.
"""
import argparse
import contextlib
import io
import os
import re
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from PIL import Image  # noqa: E402  (comes with matplotlib)

HERE = Path(__file__).parent


def cells(text):
    """[(kind, content, line number)] of a chapter, kind "markdown" or "code"; empty cells are left out."""
    found, start = [], 0
    marks = list(re.finditer(r"^# %%(.*)\n", text, re.M))
    for mark, following in zip(marks, [*marks[1:], None]):
        body = text[mark.end():following.start() if following else None]
        start = text.count("\n", 0, mark.end())
        if "[markdown]" in mark[1]:
            body = re.sub(r"^# ?", "", body, flags=re.M)
            found.append(("markdown", body.strip("\n"), start))
        else:
            leading = len(body) - len(body.lstrip("\n"))
            found.append(("code", body.strip("\n"), start + leading))
    return [cell for cell in found if cell[1].strip()]


def run_cell(code, line, path, namespace):
    """Executes a cell; -> what it printed. A traceback shows the chapter's own line, after what the cell had printed."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + code, str(path), "exec"), namespace)
    except BaseException:
        sys.stderr.write(printed.getvalue())
        raise
    return printed.getvalue()


def render(path, figures):
    """Runs a chapter, saves its pictures in the folder `figures`; -> the page as Markdown."""
    path, figures = Path(path), Path(figures)
    figures.mkdir(parents=True, exist_ok=True)
    plt.close("all")      # a figure that is open already is not the chapter's
    namespace, parts, count = {"__name__": "__main__"}, [], 0
    for kind, content, line in cells(path.read_text(encoding="utf-8")):
        if kind == "markdown":
            parts.append(content)
            continue
        parts.append(f"```python\n{content}\n```")
        printed = run_cell(content, line, path, namespace)
        if printed.strip():
            parts.append(f"```text\n{printed.rstrip()}\n```")
        for number in plt.get_fignums():
            count += 1
            name = f"{path.stem}_{count}.png"
            plt.figure(number).savefig(figures / name, dpi=80)
            Image.open(figures / name).convert("RGB").quantize(256).save(figures / name, optimize=True)   # a third of the bytes
            parts.append(f"![](figures/{name})")
        plt.close("all")
    parts.append(f"*This page was made by `python tutorials/render.py {path.name}`; numbers and pictures are those of that run.*")
    return "\n\n".join(parts) + "\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapter", help="file name of a chapter beside this script")
    parser.add_argument("--fast", action="store_true", help="small size, writes nothing")
    arguments = parser.parse_args(argv)
    path, began = HERE / Path(arguments.chapter).name, time.perf_counter()
    if arguments.fast:
        os.environ["FAST"] = "1"
    if os.environ.get("FAST"):
        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            render(path, folder)
    else:
        page = render(path, HERE / "figures")
        path.with_suffix(".md").write_text(page, encoding="utf-8")
    print(f"{path.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
