"""Which code of a competition forms weights, compared by its syntax: comments, docstrings and layout do not count.

All of the package does, save for what only `metrics`, `submission` and `test_rows` use: that is needed once the weights
are there, and may change until then.
"""

import ast
import hashlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

PACKAGE = "competition"
LIVE = {"metric": "metrics", "submission": "submission", "tables": "test_rows"}  # module -> what forms no weights in it
FORMING = ("targets", "augmentations")  # modules that do, whoever else uses them
WHOLE = ""
REFERENCE = re.compile(rf"({PACKAGE}(?:\.\w+)*):(\w+)")  # "competition.losses:Focal"
Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Name = tuple[str, str]  # (module without `competition.`, name in it; `WHOLE` for all of it)
# (text, names that it defines, names that it uses); one that defines none counts wherever something of its module does
Statement = tuple[str, set[str], set[Name]]


class Code:
    """The modules of a package in a folder; one that is no Python counts as a whole."""

    def __init__(self, root: Path) -> None:
        paths = [(path.relative_to(root).with_suffix("").parts, path) for path in code_files(root)]
        dotted = {".".join(parts): path for parts, path in paths if path.suffix == ".py"}
        self.files = {re.sub(r"\.?__init__$", "", name): path for name, path in dotted.items()}
        self.modules = {name: self._statements(name, path) for name, path in self.files.items()}

    def parts(self) -> list[Name]:
        """What forms no weights, in this package and in those of its stages."""
        return [(name, LIVE[end]) for name in sorted(self.modules) if (end := name.rpartition(".")[2]) in LIVE]

    def forms_weights(self) -> dict[str, list[str]]:
        """Module -> the statements that form weights."""
        parts = self.parts()
        of_parts = {module for module, _ in parts} | {*self.reached(parts)}
        roots = [(name, "train_rows") for name, part in parts if part == "test_rows"]
        for name in self.modules:
            if name.rpartition(".")[2] in FORMING or self._is_package(name) or name not in of_parts:
                roots.append((name, WHOLE))
        return self.reached(roots)

    def reached(self, roots: Iterable[Name]) -> dict[str, list[str]]:
        """Module -> the statements that define these names, and all that those use, in their order."""
        found: dict[str, set[int]] = {}
        todo, done = list(roots), set()
        while todo:
            if (root := todo.pop()) in done:
                continue
            done.add(root)
            module, name = root
            for number, (_, defines, uses) in enumerate(self.modules.get(module, ())):
                if name == WHOLE or name in defines or not defines:
                    found.setdefault(module, set()).add(number)
                    todo += uses
        return {name: [self.modules[name][number][0] for number in sorted(found[name])] for name in sorted(found)}

    def hash(self, roots: Iterable[Name]) -> str:
        return hashlib.sha256(repr(self.reached(roots)).encode()).hexdigest()[:16]

    def _statements(self, module: str, path: Path) -> list[Statement]:
        """Those at the top of a module; an import of several names is several."""
        source = path.read_bytes()
        try:
            tree = ast.parse(source, str(path))
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | Scope):
                    node.body = [each for each in node.body if not _is_text(each)]
            return [self._statement(module, node) for whole in tree.body for node in _divided(whole)]
        except (SyntaxError, ValueError, ImportError):  # the last: more dots than there are packages
            return [(repr(source), set(), set())]

    def _statement(self, module: str, node: ast.stmt) -> Statement:
        defines, uses, inside = set[str](), set[Name](), list(ast.walk(node))
        for found in inside:
            if isinstance(found, ast.Name):
                uses.add((module, found.id))
            uses |= set(self._imported(module, found))
        for found in [node] if isinstance(node, Scope) else inside:
            if isinstance(found, Scope):
                defines.add(found.name)
            elif isinstance(found, ast.Name) and isinstance(found.ctx, ast.Store):
                defines.add(found.id)
            elif isinstance(found, ast.alias):
                defines.add(found.asname or found.name.partition(".")[0])
        return ast.dump(node), defines, uses

    def _imported(self, module: str, node: ast.AST) -> Iterator[Name]:
        """What an import, or a reference in a string, takes from modules of the package."""
        pairs: list[Name] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            pairs = REFERENCE.findall(node.value)
        elif isinstance(node, ast.Import):
            pairs = [(alias.name, WHOLE) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = f"{PACKAGE}.{module}".rstrip(".")
            package = package if self._is_package(module) else package.rpartition(".")[0]
            where = resolve_name("." * node.level + (node.module or ""), package)
            pairs = [(where, alias.name.replace("*", WHOLE)) for alias in node.names]
        for where, name in pairs:
            if where.partition(".")[0] == PACKAGE:
                where = where.removeprefix(PACKAGE).lstrip(".")
                below = f"{where}.{name}".lstrip(".")
                yield (below, WHOLE) if below in self.files else (where, name)

    def _is_package(self, module: str) -> bool:
        return self.files[module].name == "__init__.py"


def code_hash(function: Callable[..., Any]) -> str:
    """Of what a function of a competition's package reaches; empty for any other."""
    function = inspect.unwrap(function)
    package, _, module = str(getattr(function, "__module__", "")).partition(".")
    if package != PACKAGE or not inspect.isfunction(function):
        return ""
    file = Path(inspect.getfile(function))
    return Code(file.parents[module.count(".") + (file.name == "__init__.py")]).hash([(module, function.__name__)])


def code_files(root: Path) -> list[Path]:
    """What belongs to a package; caches and hidden files do not."""
    skipped = re.compile(r"(^|/)(\.|__pycache__/)")
    files = (path for path in root.rglob("*") if path.is_file())
    return [path for path in files if not skipped.search(path.relative_to(root).as_posix())]


def _divided(node: ast.stmt) -> list[ast.stmt]:
    """A statement; an import of several names as one of each."""
    if isinstance(node, ast.Import):
        return [ast.Import([alias]) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [ast.ImportFrom(node.module, [alias], node.level) for alias in node.names]
    return [node]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
