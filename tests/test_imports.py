"""Who may import whom: the layers of techloop, and the libraries that few files touch."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]

# From the bottom up; a module imports from its own layer and those below. A package's name stands
# for all of it.
LAYERS = (
    {
        "techloop.grid",
        "techloop.params",
        "techloop.params_text",
        "techloop.preparation_config",
        "techloop.artifacts",
        "techloop.allocator",
        "techloop.closure",
        "techloop.metric",
        "techloop.rank",
    },
    {"techloop.audio"},
    {"techloop.data", "techloop.models"},
    {"techloop.instrument", "techloop.controls", "techloop.training", "techloop.evaluation"},
    {"techloop.reporting", "techloop.tracking"},
    {"techloop.pipeline"},
    {"techloop.cli", "stages"},
)
ONLY_IN = {
    "matplotlib": {"techloop.reporting.plots", "techloop.reporting.dataset_plot"},
    "altair": {"techloop.reporting.charts"},
    "vl_convert": {"techloop.reporting.charts"},
    "mlflow": {"techloop.tracking.store"},
    "soundfile": {"techloop.audio.io"},
    "soxr": {"techloop.audio.resample"},
    "prefect": {"techloop.pipeline.flow"},
    "dvc": {"techloop.pipeline.plan"},
    "jinja2": {"techloop.reporting.render"},
    "typer": {"techloop.cli"},
    "tinytag": {"techloop.audio.tags"},
    "librosa": {"techloop.data.tempo.librosa_tempo"},
}


def modules(top: Path) -> dict[str, Path]:
    """Every module of techloop and stages, with its file."""
    files = {}
    for file in sorted([*top.glob("techloop/**/*.py"), *top.glob("stages/**/*.py")]):
        parts = file.relative_to(top).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


def imported(file: Path, ours: dict[str, Path]) -> set[str]:
    """Names that a file imports, those inside functions and blocks included."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide where a name comes from"
            module = str(node.module)
            inner = {f"{module}.{alias.name}" for alias in node.names} & set(ours)
            names |= inner or {module}
    return names


def layer(module: str) -> int | None:
    """The layer that names the module, or else the closest package around it."""
    while module:
        for height, names in enumerate(LAYERS):
            if module in names:
                return height
        module = module.rpartition(".")[0]
    return None


def violations(top: Path) -> list[str]:
    """Each broken rule in words."""
    ours, broken = modules(top), []
    for module, file in ours.items():
        # The package itself only re-exports names, on demand, from any layer.
        own = len(LAYERS) if module == "techloop" else layer(module)
        if own is None:
            broken.append(f"{module} has no layer: give it one in LAYERS")
            continue
        for name in sorted(imported(file, ours)):
            root = name.partition(".")[0]
            if root in ONLY_IN and module not in ONLY_IN[root]:
                allowed = " and ".join(sorted(ONLY_IN[root]))
                broken.append(f"{module} imports {root}, which only {allowed} may")
            if root == "stages" and not module.startswith("stages"):
                broken.append(f"{module} imports from stages, which nothing may")
            elif root == "techloop" and (theirs := layer(name)) is not None and theirs > own:
                broken.append(f"{module} imports {name} from a layer above")
    return broken


def first_cycle(top: Path) -> list[str]:
    """Modules that import one another, at once or lazily; empty where there are none."""
    ours = modules(top)
    graph = {m: imported(f, ours) & set(ours) - {m} for m, f in ours.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_go_downwards() -> None:
    ours = modules(TOP)
    assert len(ours) > 20
    assert set().union(*LAYERS) <= {*ours, "stages"}, "a layer names a missing module"
    for library, allowed in ONLY_IN.items():
        for module in allowed:
            names = imported(ours[module], ours)
            assert library in {name.partition(".")[0] for name in names}, (library, module)
    assert violations(TOP) == []


def test_no_cycle() -> None:
    assert first_cycle(TOP) == []


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("techloop/grid.py", "import techloop.data.loops", "grid imports techloop.data.loops"),
        (
            "techloop/audio/io.py",
            "from techloop.data import loops",
            "io imports techloop.data.loops",
        ),
        ("techloop/audio/io.py", "def f():\n    from techloop.cli import app", "techloop.cli from"),
        ("techloop/data/loops.py", "import soundfile as sf", "only techloop.audio.io may"),
        ("techloop/cli.py", "from matplotlib import pyplot", "techloop.reporting.plots may"),
        ("techloop/models/x.py", "import mlflow.entities", "which only techloop.tracking"),
        ("techloop/cli.py", "from stages import run_stage", "which nothing may"),
        ("techloop/helpers.py", "", "techloop.helpers has no layer"),
    ],
)
def test_a_broken_rule_is_reported(tmp_path: Path, file: str, line: str, message: str) -> None:
    for name in ("techloop/__init__.py", "techloop/data/loops.py", "techloop/cli.py", file):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [b for b in violations(tmp_path) if "helpers" not in b] == []
    (tmp_path / file).write_text(line)
    assert any(message in broken for broken in violations(tmp_path))


def test_a_cycle_is_reported_lazy_ones_too(tmp_path: Path) -> None:
    (tmp_path / "techloop").mkdir()
    (tmp_path / "techloop" / "tempo.py").write_text("from techloop.loops import x")
    loops = tmp_path / "techloop" / "loops.py"
    loops.write_text("import techloop.tempo")
    assert set(first_cycle(tmp_path)) == {"techloop.tempo", "techloop.loops"}
    loops.write_text("def f():\n    import techloop.tempo")
    assert set(first_cycle(tmp_path)) == {"techloop.tempo", "techloop.loops"}
    loops.write_text("")
    assert first_cycle(tmp_path) == []


def test_no_private_name_crosses_modules() -> None:
    ours = modules(TOP)
    crossing = [
        f"{module} imports {alias.name} of {node.module}"
        for module, file in ours.items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module in ours
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.endswith("__")
    ]
    assert crossing == []


@pytest.mark.parametrize(("files", "limit"), [("techloop/**/*.py", 400), ("stages/[!_]*.py", 60)])
def test_files_are_short(files: str, limit: int) -> None:
    lines = {file: len(file.read_text("utf-8").splitlines()) for file in TOP.glob(files)}
    assert lines
    assert {str(file): n for file, n in lines.items() if n > limit} == {}


HEAVY = {"torch", "numpy", "pandas", "scipy", "librosa", "matplotlib", "mlflow", "prefect"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("techloop.cli", HEAVY),
        ("techloop.tracking.run", HEAVY),
        ("techloop.tracking.ui", HEAVY),
        ("techloop.pipeline.plan", {*HEAVY, "dvc"}),
        ("stages.flow", {*HEAVY, "dvc"}),
        ("stages.check", HEAVY),
        ("techloop.reporting.plots", {"altair", "vl_convert"}),
        ("techloop.reporting.page", HEAVY - {"numpy", "pandas"} | {"altair", "vl_convert"}),
        ("techloop.reporting.exhibits.by_stage", {"torch", "librosa", "sklearn", "altair"}),
    ],
)
def test_light_modules_import_nothing_heavy(module: str, heavy: set[str]) -> None:
    script = f"import sys, {module}; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=TOP, check=True, capture_output=True, text=True
    )
    loaded = set(ran.stdout.split())
    assert module in loaded
    assert loaded & heavy == set()
