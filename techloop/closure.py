"""Which code an output depends on: what makes a stage, a checkpoint or a part stale."""

import ast
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent  # holds the packages `techloop` and `stages`
PACKAGES = ("techloop", "stages")
# Modules that start, configure or record a stage, with the names that hand no value to its output.
# Whoever imports these names does not depend on the module; any other name counts like any import.
# From params.py, these are `load_params` and the classes: it holds types and bounds, but no value
# that an output depends on, which tests/test_closure.py checks.
NO_OUTPUT: dict[str, frozenset[str]] = {
    "stages": frozenset({"run_stage"}),
    "techloop": frozenset(),
    "techloop.allocator": frozenset({"keep_freed_memory"}),
    "techloop.closure": frozenset({"code_fingerprint"}),
    "techloop.params": frozenset({"load_params"}),
    "techloop.rank": frozenset({"is_rank_zero"}),
    "techloop.tracking.run": frozenset({"Run", "track"}),
}
DYNAMIC = ("import_module", "__import__")


def module_file(module: str, top: Path = TOP) -> Path | None:
    """The file of a module of `techloop` or `stages`; None if it does not exist."""
    base = top.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def imported_modules(file: Path, top: Path = TOP) -> set[str]:
    """Modules of ours that what a file computes depends on: those it imports, lazily or not.

    Packages around them count too, as importing runs their `__init__.py`. Names of `NO_OUTPUT` and
    what is imported for type checkers alone do not count.

    Raises:
        ValueError: a relative import, or one by a computed name, in a file of ours: it cannot be
            followed.
    """
    return _imports(file.read_text(encoding="utf-8"), file, top)


def _imports(source: str, file: Path, top: Path) -> set[str]:
    modules: set[str] = set()
    for node in _import_nodes(source):
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules |= _with_packages(alias.name, top)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                modules |= _source_of(node.module, alias.name, top)
        elif file.is_relative_to(top):
            raise ValueError(
                f"{file}:{node.lineno}: write `from module import name` with the whole name of the "
                "module; relative imports and computed names cannot be followed"
            )
    return modules


def closure(start: Iterable[Path | str], top: Path = TOP) -> list[Path]:
    """All files that an output of some code depends on, themselves included, sorted.

    Left out are packages' `__init__.py` that hold no code.

    Args:
        start: files, or modules by name.
        top: of the checkout.

    Raises:
        ValueError: a module does not exist, or see `imported_modules`.
    """
    files: set[Path] = set()
    pending = list(start)
    while pending:
        place = pending.pop()
        file = place if isinstance(place, Path) else module_file(place, top)
        if file is None:
            raise ValueError(f"module {place} does not exist below {top}")
        if file not in files:
            files.add(file)
            pending += sorted(imported_modules(file, top))
    return sorted(file for file in files if _code(file.read_text(encoding="utf-8")))


@functools.cache  # of the code that this process runs, even if a file is edited meanwhile
def code_fingerprint(*modules: str, top: Path = TOP) -> str:
    """SHA-256 over the closure of some modules, as 16 hex digits; it changes with their results.

    Comments, docstrings, layout, messages of errors and warnings, and what a `Metric` says of its
    name do not count: a checkpoint survives a change of words.

    Args:
        modules: by name; one from outside the repository (a user's own source of audio) is found
            among the loaded modules. One without source, such as `__main__` of a notebook or of
            `python -c`, does not count.
        top: of the checkout.
    """
    total, start = hashlib.sha256(), list[Path | str]()
    for module in modules:
        if file := module_file(module, top) or _loaded_file(module):
            start.append(file)
        elif source := _loaded_source(module):
            start += sorted(_imports(source, Path(module), top))
            total.update(f"{module} {_code_hash(source)}\n".encode())
    files = closure(start, top)
    for file in files:
        name = file.relative_to(top).as_posix() if file.is_relative_to(top) else file.name
        total.update(f"{name} {_code_hash(file.read_text(encoding='utf-8'))}\n".encode())
    return total.hexdigest()[:16]


def _loaded_file(module: str) -> Path | None:
    """The file of a loaded module; None if it has none."""
    name = getattr(sys.modules[module], "__file__", None)
    return Path(name) if name and Path(name).is_file() else None


def _loaded_source(module: str) -> str:
    """The source of a loaded module without a file (one of a zip archive has it), or nothing."""
    try:
        return inspect.getsource(sys.modules[module])
    except (OSError, TypeError):
        return ""


def _code_hash(source: str) -> str:
    return hashlib.sha256(_code(source, messages=False).encode()).hexdigest()


def _source_of(module: str, name: str, top: Path) -> set[str]:
    """The modules that `from module import name` makes one depend on."""
    if module_file(f"{module}.{name}", top):
        return _with_packages(f"{module}.{name}", top)
    if module in NO_OUTPUT:
        allowed = name in NO_OUTPUT[module]
        if allowed or (module == "techloop.params" and name in _classes(module_file(module, top))):
            return set()
    return _with_packages(module, top)


def _with_packages(module: str, top: Path) -> set[str]:
    """A module and the packages around it; nothing for a library."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return set()
    around = (".".join(parts[:n]) for n in range(1, len(parts)))
    packages = {name for name in around if name not in NO_OUTPUT}
    return {name for name in {*packages, module} if module_file(name, top)}


def _classes(file: Path | None) -> set[str]:
    assert file
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


@functools.cache
def _import_nodes(source: str) -> list[ast.Import | ast.ImportFrom | ast.Name | ast.Attribute]:
    """Imports of a module's source, and names of functions that import by a computed name."""
    nodes: list[ast.Import | ast.ImportFrom | ast.Name | ast.Attribute] = []
    for node in _run_nodes(ast.parse(source)):
        if (
            isinstance(node, ast.Import | ast.ImportFrom)
            or (isinstance(node, ast.Name) and node.id in DYNAMIC)
            or (isinstance(node, ast.Attribute) and node.attr in DYNAMIC)
        ):
            nodes.append(node)
    return nodes


def _run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all within it, except blocks for type checkers."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for otherwise in child.orelse:
                yield from _run_nodes(otherwise)
        else:
            yield from _run_nodes(child)


@functools.cache
def _code(source: str, messages: bool = True) -> str:
    """Code in one notation, without comments and docstrings; empty if there is none.

    Args:
        source: of a module.
        messages: whether to keep the words of errors, warnings and metrics.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del body[0]
    return ast.unparse(tree if messages else _WithoutMessages().visit(tree))


class _WithoutMessages(ast.NodeTransformer):
    """Empties the strings that only a person reads."""

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return _wordless(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = ast.unparse(node.func).rpartition(".")[2]
        if name == "warn":
            return _wordless(node)
        if name == "Metric":  # its name is a key of files; the rest is label, unit, direction
            node.args[1:] = [_Wordless().visit(argument) for argument in node.args[1:]]
            node.keywords = [_Wordless().visit(keyword) for keyword in node.keywords]
            return node
        return self.generic_visit(node)


def _wordless(node: ast.AST) -> ast.AST:
    emptied: ast.AST = _Wordless().visit(node)
    return emptied


class _Wordless(ast.NodeTransformer):
    """Empties all strings of a node."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return ast.Constant("")

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("") if isinstance(node.value, str) else node
