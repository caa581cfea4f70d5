"""The chapters: their claims hold when they run, and the committed pages are made from the committed code."""
import sys
from pathlib import Path

import numpy as np
import pytest
from docs import ROOT, blocks, links

TUTORIALS = ROOT / "tutorials"
pytest.importorskip("matplotlib", reason="chapters draw pictures; it comes with the extra `tutorials` or `test`")
sys.path.insert(0, str(TUTORIALS))
import render  # noqa: E402

CHAPTERS = sorted(path.name for path in TUTORIALS.glob("[0-9][0-9]_*.py"))

CHAPTER = """# %% [markdown]
# # Title
#
# A $formula$.

# %%
import matplotlib.pyplot as plt
x = 6

# %%

# %%
# a comment stays
print(7 * x)
plt.plot([1, 2])
"""


def test_cells_know_their_kind_and_their_lines():
    assert render.cells(CHAPTER) == [("markdown", "# Title\n\nA $formula$.", 1), ("code", "import matplotlib.pyplot as plt\nx = 6", 6),
                                     ("code", "# a comment stays\nprint(7 * x)\nplt.plot([1, 2])", 12)]


def test_a_page_holds_text_code_output_and_picture(tmp_path):
    (tmp_path / "c.py").write_text(CHAPTER)
    page = render.render(tmp_path / "c.py", tmp_path / "figures")
    assert page.startswith("# Title\n\nA $formula$.\n\n```python\nimport")
    assert "plt.plot([1, 2])\n```\n\n```text\n42\n```\n\n![](figures/c_1.png)\n" in page
    assert links(page) == ["figures/c_1.png"] and (tmp_path / "figures" / "c_1.png").stat().st_size > 1000


def test_an_error_names_the_line_of_the_chapter(tmp_path, capsys):
    (tmp_path / "c.py").write_text(CHAPTER + "assert x == 7\n")
    with pytest.raises(AssertionError) as error:
        render.render(tmp_path / "c.py", tmp_path)
    assert error.traceback[-1].lineno + 1 == (CHAPTER + "assert").count("\n") + 1
    assert "42" in capsys.readouterr().err


def test_there_are_chapters():
    assert "00_whole_system.py" in CHAPTERS


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_runs_at_its_small_size(name, tmp_path, monkeypatch):
    """FAST, with the assertions that so few steps allow; tutorials/render.py runs all of them at full size."""
    monkeypatch.setenv("FAST", "1")
    monkeypatch.chdir(tmp_path)
    page = render.render(TUTORIALS / name, tmp_path / "figures")
    shown = links((TUTORIALS / name).with_suffix(".md").read_text(encoding="utf-8"))
    made = {Path(target).name for target in links(page) if target.endswith(".png")}
    assert made == {Path(target).name for target in shown if target.endswith(".png")} and made


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_page_is_not_stale(name):
    """Every cell of the chapter stands in its page, in order, and the page's pictures are there and small."""
    page = (TUTORIALS / name).with_suffix(".md").read_text(encoding="utf-8")
    chapter = render.cells((TUTORIALS / name).read_text(encoding="utf-8"))
    assert blocks(page, "python") == [content + "\n" for kind, content, _ in chapter if kind == "code"]
    assert all(content in page for kind, content, _ in chapter if kind == "markdown")
    for target in links(page):
        if target.endswith(".png"):
            assert 2000 < (TUTORIALS / target).stat().st_size < 150_000, target


def test_what_joint_tags_gain_is_paired_and_its_picture_needs_no_scikit_learn(monkeypatch):
    """By hand: gains 0.1, 0.2, 0.3 have mean 0.2, sd 0.1 and t = 0.2 / (0.1 / sqrt 3), two degrees of freedom."""
    import joint_tags
    t = 2 * 3 ** 0.5
    p = 1 - t / (2 + t * t) ** 0.5      # Student's t with two degrees of freedom, both sides
    pairs = [[{"figures": {"roc_auc": {"value": value}}} for value in pair] for pair in ((0.5, 0.6), (0.7, 0.9), (0.2, 0.5))]
    assert joint_tags.difference(pairs, "roc_auc") == f"+0.200 ± 0.100 | {p:.3f}"
    assert joint_tags.difference([pair[::-1] for pair in pairs], "roc_auc").startswith("-0.200 ± 0.100")
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    vectors = np.random.default_rng(0).standard_normal((40, 5)) * [1, 9, 1, 4, 1]
    how, points = joint_tags.two_dimensions(vectors)
    values = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    assert how == "two principal components" and points.var(0, ddof=1) == pytest.approx(values[:2])
