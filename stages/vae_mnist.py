"""VAEs on images: notebooks/vae_mnist.ipynb, run and written as one page."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track

if TYPE_CHECKING:
    from nbformat import NotebookNode

FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)
USER_ERRORS = ("FileNotFoundError", "ValueError")  # what `images.py` raises for a user's mistake
FOLDER = Path(__file__).parent.parent / "notebooks"


def as_page(notebook: "NotebookNode") -> str:
    """A notebook as HTML that fetches nothing: formulas as MathML, pictures and styles inside."""
    from latex2mathml.converter import convert
    from nbconvert import HTMLExporter

    def as_mathml(formula: re.Match[str]) -> str:
        block, inline = formula.groups()
        return convert(block or inline, display="block" if block else "inline")

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(as_mathml, cell.source)
    notebook.metadata["title"] = "VAEs where they can be seen"
    exporter = HTMLExporter(extra_template_paths=[str(FOLDER)], template_file="page.html.j2")
    return str(exporter.from_notebook_node(notebook)[0])


def main() -> None:
    """Write reports/vae_mnist.html."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from tqdm import tqdm

    from techloop.artifacts import atomic_write

    section, page = load_params().vae_mnist, Path("reports/vae_mnist.html")
    os.environ["TECHLOOP_IMAGES"] = section.path
    os.environ.pop("TECHLOOP_QUICK", None)  # a quick run has no results
    notebook = nbformat.read(FOLDER / "vae_mnist.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with track("vae_mnist", section) as run, tqdm(total=len(code), unit=" cells") as bar:
        client = NotebookClient(
            notebook,
            timeout=None,
            resources={"metadata": {"path": str(FOLDER)}},
            on_cell_executed=lambda **_: bar.update(),
        )
        try:
            client.execute()
        except CellExecutionError as error:
            if error.ename in USER_ERRORS:
                raise ValueError(error.evalue) from None
            raise
        atomic_write(page, as_page(notebook))
        run.artifacts(page)


if __name__ == "__main__":
    run_stage(main)
