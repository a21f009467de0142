"""The notebook in git, and its page. That it runs is seen by nbmake, in `make test`."""

import re
from pathlib import Path

import jupytext
import nbformat

from stages.vae_mnist import laid_out

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "vae_mnist.ipynb"


def test_the_notebook_and_its_script_are_one():
    cells, script = (jupytext.read(path).cells for path in (NOTEBOOK, NOTEBOOK.with_suffix(".py")))
    told = [[(cell.cell_type, cell.source) for cell in half] for half in (cells, script)]
    assert told[0] == told[1], "run `make format`, which brings both to the newer one"


def test_the_notebook_holds_no_outputs():
    for cell in jupytext.read(NOTEBOOK).cells:
        assert not cell.get("outputs"), "run `make format`, which clears them"
        assert cell.get("execution_count") is None


def test_the_page_fetches_nothing_and_draws_its_formulas():
    page = laid_out(nbformat.read(NOTEBOOK, as_version=4))
    assert page.count("<math") == page.count("</math>") > 10
    assert "$" not in re.sub(r"<style.*?</style>|<pre.*?</pre>", "", page, flags=re.DOTALL)
    assert not re.search(r"""<script|<link|@import|url\(["']?http|src=["']?http""", page)
    assert 'href="../techloop/training/losses.py"' in page
    assert "<title>VAEs where they can be seen</title>" in page
