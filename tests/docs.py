"""What the tests read out of README.md and the chapters: code blocks, the file tree, the reading order, links."""
import re
import subprocess
import textwrap
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def tracked_files():
    """Paths of the files in git, relative to the root."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so nothing says which files belong to the repository")
    return [path for path in listed.split("\0") if path]


def blocks(text, language):
    """Contents of the fenced blocks of one language, in order; a block inside a list is dedented."""
    fenced = re.findall(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```\s*$", text, re.M | re.S)
    return [textwrap.dedent(content) for _, found, content in fenced if found == language]


def prose(text):
    """The text without its fenced blocks and `code`, where brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^( *)```.*?^\1```\s*$", "", text, flags=re.M | re.S))


def links(text):
    """Targets of links and images that are neither addresses nor places on the same page, without their #fragment."""
    text = prose(text)
    found = re.findall(r"\]\(<?([^)\s>]+)", text) + re.findall(r"(?:src|href)=[\"']([^\"']+)", text)
    return [target.split("#")[0] for target in found if not re.match(r"#|[a-z]+:", target)]


def reading_order(text):
    """Modules in the tables under the heading that names a reading order, from top to bottom: "mel", "demo/world"."""
    section = re.search(r"^#+ [^\n]*\bread\w*\b[^\n]*\border\b[^\n]*\n(.*?)(?=^#+ |\Z)", text, re.M | re.S | re.I)
    names = []
    for row in re.findall(r"^\|.*\|", section[1] if section else "", re.M):
        # The first cell that names modules; the others may mention some in passing. A link names its file twice.
        cell = next((cell for cell in row.split("|") if re.search(r"\w\.py\b", cell)), "")
        names += [name.removeprefix("mulan_min/") for name in re.findall(r"((?:\w+/)*\w+)\.py\b", cell)]
    return list(dict.fromkeys(names))


def tree(text):
    """[path or pattern] of the first ```text block that shows mulan_min/. Two spaces of indentation a folder, the comment
    after three spaces or more. A folder without children, or with the child `...`, stands for all in it."""
    block = next(b for b in blocks(text, "text") if re.search(r"^mulan_min/", b, re.M))
    entries, above = [], []
    lines = [line for line in block.splitlines() if line.strip()]
    for line, following in zip(lines, [*lines[1:], ""]):
        indent = len(line) - len(line.lstrip())
        names = re.split(r"\s{3,}", line.strip())[0].split()
        above = above[:indent // 2]
        childless = len(following) - len(following.lstrip()) <= indent
        for name in names:
            path = "".join(above) + name
            entries.append(path + "*" if name.endswith("/") and childless else path.replace("...", "*"))
        if names[-1].endswith("/"):
            above.append(names[-1])
    return [entry for entry in entries if not entry.endswith("/")]


def tree_faults(entries, files):
    """How a tree differs from the files of the repository: lines to show, none when it tells the truth."""
    gone = [f"the tree shows {entry}, which is not in git" for entry in entries
            if not any(fnmatch(path, entry) for path in files)]
    return gone + [f"{path} is in git but not in the tree" for path in files
                   if not any(fnmatch(path, entry) for entry in entries)]


def script(block, python):
    """A ```bash block as a script for a fresh checkout: what installs is left out, as it is what got us here, `python` is
    this one, and training takes the smoke preset."""
    commands = []
    for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
        for command in line.split(" && "):
            command = command.strip()
            if command.startswith(("pip install", "pytest", "git clone", "cd ", "#")) or not command:
                continue
            if re.search(r"\bpython train\.py\b", command):
                command = re.sub(r" --preset[ =]\w+", "", command).replace("train.py", "train.py --preset smoke", 1)
            commands.append(re.sub(r"\bpython(?= )", f"'{python}'", command))
    return "\n".join(commands)
