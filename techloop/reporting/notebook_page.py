"""A notebook as one page that fetches nothing."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)


def as_page(notebook: "NotebookNode", title: str, template: Path) -> str:
    """A notebook as HTML that fetches nothing: formulas as MathML, pictures and styles inside."""
    from latex2mathml.converter import convert
    from nbconvert import HTMLExporter

    def as_mathml(formula: re.Match[str]) -> str:
        block, inline = formula.groups()
        return convert(block or inline, display="block" if block else "inline")

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(as_mathml, cell.source)
    notebook.metadata["title"] = title
    exporter = HTMLExporter(
        extra_template_paths=[str(template.parent)], template_file=template.name
    )
    return str(exporter.from_notebook_node(notebook)[0])
