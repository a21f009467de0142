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
        "techloop.preparation",
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
    "mlflow": {"techloop.tracking.run"},
    "soundfile": {"techloop.audio.io"},
    "soxr": {"techloop.audio.resample"},
    "prefect": {"stages.scheduled"},
    "dvc": {"stages.flow", "techloop.pipeline.doctor"},
    "jinja2": {"techloop.reporting.render"},
    "typer": {"techloop.cli"},
    "tinytag": {"techloop.audio.tags"},
    "librosa": {"techloop.data.tempo.librosa_tempo"},
}


def modules(top: Path) -> dict[str, Path]:
    """Every module of techloop and stages, with its file."""
    found = {}
    for file in sorted([*top.glob("techloop/**/*.py"), *top.glob("stages/**/*.py")]):
        parts = file.relative_to(top).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(file: Path, known: dict[str, Path]) -> set[str]:
    """Names that a file imports, those inside functions and blocks included."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide where a name comes from"
            module = str(node.module)
            inner = {f"{module}.{alias.name}" for alias in node.names} & set(known)
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
    known, broken = modules(top), []
    for module, file in known.items():
        # The package itself only hands out names, on demand, from any layer.
        own = len(LAYERS) if module == "techloop" else layer(module)
        if own is None:
            broken.append(f"{module} has no layer: give it one in LAYERS")
            continue
        for name in sorted(imported(file, known)):
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
    known = modules(top)
    graph = {m: imported(f, known) & set(known) - {m} for m, f in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_go_downwards() -> None:
    known = modules(TOP)
    assert len(known) > 20
    assert set().union(*LAYERS) <= {*known, "stages"}, "a layer names what is not there"
    for library, allowed in ONLY_IN.items():
        for module in allowed:
            names = imported(known[module], known)
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


HEAVY = {"torch", "numpy", "pandas", "scipy", "librosa", "matplotlib", "mlflow", "prefect"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("techloop.cli", HEAVY),
        ("techloop.tracking.run", HEAVY),
        ("stages.flow", HEAVY),
        ("stages.check", HEAVY),
        ("techloop.reporting.plots", {"altair", "vl_convert"}),
        ("techloop.reporting.page", {"torch", "librosa", "matplotlib", "altair", "vl_convert"}),
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
