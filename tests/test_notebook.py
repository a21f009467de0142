"""The notebook in git, and its page. nbmake runs it, in `make test`."""

import re
from pathlib import Path

import jupytext
import nbformat

from stages.vae_mnist import FOLDER, TITLE
from techloop.reporting.notebook_page import as_page

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "vae_mnist.ipynb"


def test_the_notebook_and_its_script_have_the_same_cells():
    notebook, script = (
        [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]
        for path in (NOTEBOOK, NOTEBOOK.with_suffix(".py"))
    )
    assert notebook == script, "run `make format`, which brings both to the newer one"


def test_links_of_the_notebook_lead_somewhere():
    text = NOTEBOOK.with_suffix(".py").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert len(links) > 10
    assert [link for link in links if not (NOTEBOOK.parent / link).exists()] == []


def test_the_notebook_holds_no_outputs():
    for cell in jupytext.read(NOTEBOOK).cells:
        assert not cell.get("outputs"), "run `make format`, which clears them"
        assert cell.get("execution_count") is None


def test_the_page_fetches_nothing_and_draws_its_formulas():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    page = as_page(notebook, TITLE, FOLDER / "page.html.j2")
    assert page.count("<math") == page.count("</math>") > 10
    assert "$" not in re.sub(r"<style.*?</style>|<pre.*?</pre>", "", page, flags=re.DOTALL)
    assert not re.search(r"""<script|<link|@import|url\(["']?http|src=["']?http""", page)
    assert 'href="../techloop/training/losses.py"' in page
    assert "<title>VAEs where they can be seen</title>" in page
