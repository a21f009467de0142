"""No value that an output depends on hides from DVC: `deps`, `params`, and fingerprints of code."""

import ast
import importlib
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from techloop.closure import (
    NO_OUTPUT,
    TOP,
    closure,
    code_fingerprint,
    imported_modules,
)
from techloop.params import Params
from techloop.pipeline.deps import PIPELINES, code_deps, written_deps

STAGES = {
    name: body.get("do", body)
    for file in PIPELINES
    for name, body in YAML(typ="safe").load(TOP / file)["stages"].items()
}
COMPUTING = {"min", "max", "round", "sum", "abs", "pow", "divmod", "model_copy", "model_construct"}


def computations(params: Path) -> list[str]:
    """Where params.py computes or holds a value, and not only types, bounds and messages."""
    tree = ast.parse(params.read_text(encoding="utf-8"))
    bounds = {
        id(part)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Field"
        for part in ast.walk(call)
    }
    fields = {
        id(field)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for field in node.body
    }
    hits = []
    for node in ast.walk(tree):
        arithmetic = isinstance(node, ast.BinOp) and not isinstance(node.op, ast.BitOr)
        number = isinstance(node, ast.Constant) and type(node.value) in (int, float, complex)
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        default = isinstance(node, ast.AnnAssign) and id(node) in fields and node.value is not None
        if (
            arithmetic
            or isinstance(node, ast.AugAssign)
            or (number and id(node) not in bounds)
            or called.rpartition(".")[2] in COMPUTING
            or default
        ):
            hits.append(f"{params.name}:{node.lineno}: {ast.unparse(node)}")
    return hits


def foreign_fields(params: Path, top: Path) -> dict[str, set[str]]:
    """Names in params.py whose type is of another module of ours, with these modules."""
    tree = ast.parse(params.read_text(encoding="utf-8"))
    homes = {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module in imported_modules(params, top)
        for alias in node.names
    }
    fields: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, annotation = node.target.id, node.annotation
        elif isinstance(node, ast.FunctionDef) and node.returns:
            name, annotation = node.name, node.returns
        else:
            continue
        types = {part.id for part in ast.walk(annotation) if isinstance(part, ast.Name)}
        if foreign := {home for type_, home in homes.items() if type_ in types}:
            fields[name] = fields.get(name, set()) | foreign
    return fields


def complaints(top: Path) -> list[str]:
    """Every way in which an output could depend on what DVC does not know."""
    hits = computations(top / "techloop" / "params.py")
    for pipeline in PIPELINES:
        if (top / pipeline).exists():
            before, after = written_deps(top / pipeline, top)
            hits += [f"{pipeline} is not current: make deps"] if before != after else []
    foreign = foreign_fields(top / "techloop" / "params.py", top)
    for stage in YAML(typ="safe").load(top / PIPELINES[0])["stages"]:
        files = closure([f"stages.{stage}"], top)
        for file in files:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            uses = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            homes = set().union(*(foreign.get(name, set()) for name in uses))
            if "techloop.params" in file.read_text(encoding="utf-8"):
                missing = homes - {module_of(f, top) for f in files}
                hits += [f"{stage} uses a value of {home}, which its deps lack" for home in missing]
    return hits


def module_of(file: Path, top: Path) -> str:
    return ".".join(file.relative_to(top).with_suffix("").parts)


def test_no_value_hides_from_dvc() -> None:
    assert complaints(TOP) == []


def test_names_that_hand_no_value_exist() -> None:
    for module, names in NO_OUTPUT.items():
        file = TOP.joinpath(*module.split("."))
        path = next(
            (p for p in (file.with_suffix(".py"), file / "__init__.py") if p.is_file()), None
        )
        assert path, module
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assert names <= defined, module


TREE = {
    "techloop/__init__.py": '"""Techloop."""\nVERSION = 1\n',
    "techloop/params.py": (
        "from typing import Annotated\n"
        "from pydantic import BaseModel, Field\n"
        "from techloop.grid import Grid\n"
        "class Params(BaseModel):\n"
        "    loops: int\n"
        "    rate: Annotated[float, Field(gt=0)]\n"
        "    grid: Grid\n"
        "    def budget(self):\n"
        "        return self.loops\n"
        "def load_params():\n"
        "    return Params\n"
    ),
    "techloop/grid.py": "class Grid:\n    frames = 240\n",
    "techloop/cli.py": "PREFERRED = 'kl'\n",
    "techloop/page.py": '"""The page."""\nTEMPLATE = "page.html.j2"  # its text\n',
    "techloop/templates/page.html.j2": "{% include 'part.html.j2' %}",
    "techloop/templates/part.html.j2": "<p>7</p>",
    "techloop/templates/other.html.j2": "<p>8</p>",
    "techloop/tracking/__init__.py": "",
    "techloop/tracking/run.py": (
        "from techloop.tracking.store import BATCH\nLIMIT = 3\ndef track(): ...\n"
    ),
    "techloop/tracking/store.py": "BATCH = 100\n",
    "techloop/maths.py": (
        '"""Sums."""\n'
        'SUM = Metric("sum", "the sum", "dB")\n'
        "def add(x):\n"
        '    """One more."""\n'
        "    if x < 0:\n"
        '        raise ValueError(f"{x} is negative")\n'
        '    warnings.warn(f"{x} is large", stacklevel=2)\n'
        '    kind = "even"\n'
        "    return x + 1  # one\n"
    ),
    "stages/__init__.py": "GRACE = 10\ndef run_stage(main): ...\n",
    "stages/work.py": (
        "from stages import run_stage\n"
        "from techloop.params import Params, load_params\n"
        "from techloop.tracking.run import track\n"
        "def main():\n"
        "    from techloop.maths import add\n"
        "    from techloop.page import TEMPLATE\n"
    ),
    "dvc.yaml": (
        "stages:\n"
        "  work:\n"
        "    cmd: python -m stages.work\n"
        "    deps:\n"
        "      - data\n"
        "      - stages/work.py\n"
        "      - techloop/maths.py\n"
        "      - techloop/page.py\n"
        "      - techloop/templates/page.html.j2\n"
        "      - techloop/templates/part.html.j2\n"
    ),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout of a few lines in which no value hides."""
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def edit(tree: Path, name: str, before: str, after: str) -> None:
    text = (tree / name).read_text()
    assert before in text
    (tree / name).write_text(text.replace(before, after))


def test_the_small_checkout_has_no_complaint(tree: Path) -> None:
    assert complaints(tree) == []
    assert code_deps("work", tree) == [
        "stages/work.py",
        "techloop/maths.py",
        "techloop/page.py",
        "techloop/templates/page.html.j2",
        "techloop/templates/part.html.j2",
    ]


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        # A constant of a module that usually hands out no value.
        ("stages/work.py", "import run_stage", "import GRACE, run_stage"),
        ("stages/work.py", "import track", "import LIMIT, track"),
        (
            "stages/work.py",
            "techloop.tracking.run import track",
            "techloop.tracking.store import BATCH",
        ),
        ("techloop/maths.py", "def add(x):", "from techloop import VERSION\ndef add(x):"),
        ("techloop/maths.py", "def add(x):", "import techloop.params\ndef add(x):"),
        ("techloop/maths.py", "def add(x):", "from stages import *\ndef add(x):"),
        # A constant of the command line, of a new module, and a template.
        ("techloop/maths.py", "def add(x):", "def add(x):\n    from techloop.cli import PREFERRED"),
        ("techloop/maths.py", "def add(x):", "from techloop.grid import Grid\ndef add(x):"),
        ("techloop/page.py", '"page.html.j2"', '"page.html.j2", "other.html.j2"'),
        ("techloop/templates/part.html.j2", "7", "{% include 'other.html.j2' %}"),
        # A stale dvc.yaml.
        ("dvc.yaml", "      - techloop/maths.py\n", ""),
        (
            "dvc.yaml",
            "      - techloop/page.py\n",
            "      - techloop/cli.py\n      - techloop/page.py\n",
        ),
    ],
)
def test_a_value_from_a_file_that_is_not_listed_is_reported(
    tree: Path, file: str, before: str, after: str
) -> None:
    edit(tree, file, before, after)
    assert complaints(tree) == ["dvc.yaml is not current: make deps"]
    (tree / "dvc.yaml").write_text(written_deps(tree / "dvc.yaml", tree)[1])
    assert complaints(tree) == [], "after `make deps`"


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("return self.loops", "return self.loops // 3", "self.loops // 3"),
        ("return self.loops", "return min(self.loops, other)", "min("),
        ("return self.loops", "return self.model_copy(update={'loops': self.rate})", "model_copy"),
        ("loops: int", "loops: int = Field(ge=1)", "loops: int = Field"),
        ("return Params", "Params.loops = 7", "7"),
    ],
)
def test_a_params_module_that_computes_is_reported(
    tree: Path, before: str, after: str, complaint: str
) -> None:
    edit(tree, "techloop/params.py", before, after)
    assert any(complaint in hit for hit in complaints(tree))


def test_a_value_that_params_hand_out_is_a_dependency_where_it_is_used(tree: Path) -> None:
    edit(tree, "stages/work.py", "def main():", "def main():\n    load_params().grid.frames")
    assert complaints(tree) == ["work uses a value of techloop.grid, which its deps lack"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("from . import maths", "relative imports"),
        ("import importlib\nimportlib.import_module('techloop.' + 'cli')", "computed names"),
    ],
)
def test_an_import_that_cannot_be_followed_is_refused(tree: Path, line: str, message: str) -> None:
    with (tree / "techloop" / "maths.py").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(ValueError, match=message):
        complaints(tree)


def test_a_source_of_the_users_own_counts_and_may_import_as_it_likes(
    tree: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path_factory.mktemp("elsewhere") / "own_source.py"
    own.write_text("from .helper import x\nfrom techloop.maths import add\n")
    module = types.ModuleType("own_source")
    module.__file__ = str(own)
    monkeypatch.setitem(sys.modules, "own_source", module)
    assert closure([own], tree) == sorted([own, tree / "techloop" / "maths.py"])
    assert code_fingerprint("own_source", top=tree) != code_fingerprint("techloop.maths", top=tree)


FROM_MAIN = """
from dataclasses import dataclass
from pathlib import Path

from techloop.training.checkpoint import checkpoint_folder
from tests.helpers.sources import GivenSource, bars, prepare


class Own(GivenSource):
    pass


class OwnTask:
    pass


assert Own.__module__ == "__main__"
print(sum(prepare(Own(bars(12)), Path("loops"))["splits"].values()))
print(checkpoint_folder({"a": 1}, OwnTask.__module__, "cpu", Path("checkpoints")).parent)
"""


def test_a_source_and_a_task_of_a_module_without_a_file_work(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FROM_MAIN],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["12", "checkpoints"]


def test_a_module_of_a_zip_archive_counts_and_one_without_source_does_not(
    tree: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path_factory.mktemp("elsewhere") / "own.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("zipped_source.py", "def read():\n    from techloop.maths import add\n")
    monkeypatch.syspath_prepend(str(archive))
    monkeypatch.setitem(sys.modules, "zipped_source", importlib.import_module("zipped_source"))
    monkeypatch.setitem(sys.modules, "typed_source", types.ModuleType("typed_source"))
    alone = code_fingerprint("techloop.maths", top=tree)
    assert code_fingerprint("techloop.maths", "typed_source", top=tree) == alone
    assert code_fingerprint("techloop.maths", "zipped_source", top=tree) != alone
    zipped = code_fingerprint("zipped_source", top=tree)
    other = tree.with_name(f"{tree.name}-edited")
    tree.rename(other)  # another path, as fingerprints are remembered
    edit(other, "techloop/maths.py", "x + 1", "x + 2")
    assert code_fingerprint("zipped_source", top=other) != zipped, "what it imports counts"


@pytest.mark.parametrize(
    ("file", "before", "after", "counts"),
    [
        ("techloop/maths.py", '"""Sums."""', '"""Additions."""', False),
        ("techloop/maths.py", '"""One more."""', '"""The next one."""', False),
        ("techloop/maths.py", "# one", "# the smallest step", False),
        ("techloop/maths.py", "x + 1", "x  +  1", False),
        ("techloop/maths.py", "is negative", "must not be negative", False),
        ("techloop/maths.py", "{x} is large", "large: {x}", False),
        ("techloop/maths.py", '"the sum", "dB"', '"their sum", "LUFS"', False),
        ("techloop/maths.py", 'Metric("sum"', 'Metric("total"', True),
        ("techloop/maths.py", '"even"', '"odd"', True),
        ("techloop/maths.py", "x < 0", "x < 1", True),
        ("techloop/maths.py", "x + 1", "x + 2", True),
        ("techloop/cli.py", "'kl'", "'wae'", False),
        ("techloop/tracking/store.py", "100", "200", False),
        ("stages/__init__.py", "10", "20", False),
        ("stages/work.py", "import run_stage", "import run_stage, GRACE", True),
    ],
)
def test_words_change_no_fingerprint_and_constants_do(
    tree: Path, file: str, before: str, after: str, counts: bool
) -> None:
    other = tree.with_name(f"{tree.name}-edited")
    tree.rename(other)  # another path, as fingerprints are remembered
    old = code_fingerprint("stages.work", top=other)
    other.rename(tree)
    edit(tree, file, before, after)
    assert (code_fingerprint("stages.work", top=tree) != old) == counts


@pytest.mark.parametrize("stage", STAGES)
def test_one_name_throughout(stage: str) -> None:
    body = STAGES[stage]
    assert body["cmd"].startswith(f"python -m stages.{stage}")
    runs = [out for out in map(str, body["outs"]) if out.startswith("reports/runs/")]
    assert len(runs) == 1
    assert stage in runs[0]


def used_params(script: Path) -> tuple[set[str], bool]:
    """Sections that a stage's script reads, and whether it hands all of params to others."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    local = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    sections, whole = set(), False
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in (
            "params",
            "load_params()",
        ):
            if node.attr in Params.model_fields:
                sections.add(node.attr)
            elif node.attr != "logged":  # `logged` only goes into the record of the run
                whole = True
        elif isinstance(node, ast.Call) and ast.unparse(node.func) not in local:
            whole |= any(ast.unparse(argument) == "params" for argument in node.args)
    return sections, whole


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_params_that_it_reads(stage: str) -> None:
    sections, whole = used_params(TOP / "stages" / f"{stage}.py")
    declared = {str(name).partition(".")[0] for name in STAGES[stage]["params"]}
    assert sections <= declared
    assert whole or declared <= sections, "it would run again for nothing"
