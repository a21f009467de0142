"""dvc.yaml against the code: what a stage imports is what makes it stale."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
FILES = [ROOT / name / "dvc.yaml" for name in ("", "study", "notebooks")]
STAGES = {k: v for file in FILES for k, v in YAML(typ="safe").load(file)["stages"].items()}


def imported(file: Path) -> set[Path]:
    """Modules of the repository that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] in ("techloop", "stages"):
                module = ROOT / Path(*name.split("."))
                found |= {
                    p for p in (module.with_suffix(".py"), module / "__init__.py") if p.exists()
                }
    return found


def closure(*files: Path) -> set[Path]:
    """All that running files imports, themselves included; empty package files aside."""
    seen, waiting = set(), set(files)
    while waiting:
        file = waiting.pop()
        seen.add(file)
        waiting |= imported(file) - seen
    return {p for p in seen if p.read_text(encoding="utf-8").strip()}


def described(stage: str) -> dict:
    body = STAGES[stage]
    return body.get("do", body)


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_import_closure(stage: str) -> None:
    notebook = (ROOT / "notebooks").glob(f"{stage}.py")
    files = closure(ROOT / "stages" / f"{stage}.py", *notebook)
    code = {p.relative_to(ROOT).as_posix() for p in files}
    code -= {p for p in code if p.startswith("notebooks/")}  # its cells are read from the .ipynb
    # How a run is told to MLflow, and how a stage is started, change nothing in its outputs.
    code -= {"techloop/tracking/run.py", "stages/__init__.py", "techloop/params.py"}
    declared = {d for d in described(stage)["deps"] if d.startswith(("techloop/", "stages/"))}
    expanded = set()
    for dep in declared:
        path = ROOT / dep
        within = path.rglob("*.py") if path.is_dir() else [path]
        expanded |= {p.relative_to(ROOT).as_posix() for p in within}
    data = {d for d in expanded if not d.endswith(".py")}
    assert code == expanded - data, f"set deps of {stage} in dvc.yaml to {sorted(code)}"


@pytest.mark.parametrize("stage", STAGES)
def test_one_name_throughout(stage: str) -> None:
    body = described(stage)
    assert body["cmd"].startswith(f"python -m stages.{stage}")
    runs = [out for out in map(str, body["outs"]) if out.startswith("reports/runs/")]
    assert len(runs) == 1
    assert stage in runs[0]


@pytest.mark.parametrize("stage", [s for s in STAGES if "report" not in s])
def test_a_stage_depends_on_the_seed_only_where_it_uses_it(stage: str) -> None:
    source = (ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8")
    assert ("seed" in described(stage)["params"]) == ("params.seed" in source)
