"""VAEs on images: notebooks/vae_mnist.ipynb, run and written as one page."""

import os
from pathlib import Path

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track

USER_ERRORS = ("FileNotFoundError", "ValueError")  # what `images.py` raises for a user's mistake
TITLE = "VAEs where they can be seen"
FOLDER = Path(__file__).parent.parent / "notebooks"


def main() -> None:
    """Write reports/vae_mnist.html."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from tqdm import tqdm

    from techloop.artifacts import atomic_write
    from techloop.reporting.notebook_page import as_page

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
        atomic_write(page, as_page(notebook, TITLE, FOLDER / "page.html.j2"))
        run.artifacts(page)


if __name__ == "__main__":
    run_stage(main)
