"""What the code of a competition says, and how far a part of it reaches: comments, docstrings and layout do not count.

Weights are formed by the whole package, save for what only `metrics`, `submission` and `test_rows` use: that is needed
once the weights are there, and may change until then.
"""

import ast
import hashlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "competition"
LIVE = {"metric": "metrics", "submission": "submission", "tables": "test_rows"}  # module -> what forms no weights in it
FORMING = ("", "targets", "augmentations")  # modules that do, whoever else uses them
WHOLE = ""
REFERENCE = re.compile(rf"({PACKAGE}(?:\.\w+)*):(\w+)")  # "competition.losses:Focal"
Name = tuple[str, str]  # (module without `competition.`, name in it; `WHOLE` for all of it)


@dataclass(frozen=True)
class Statement:
    """One at the top of a module; an import of several names is several.

    Attributes:
        text: what it says.
        defines: names; a statement without any acts on others, and counts wherever something of its module does.
        uses: names of the module.
        imports: what it takes from other modules of the package.
    """

    text: str
    defines: frozenset[str]
    uses: frozenset[str]
    imports: tuple[Name, ...]


class Code:
    """The modules of a package in a folder. One that is no Python counts as a whole."""

    def __init__(self, root: Path) -> None:
        self.files = {_module(path.relative_to(root)): path for path in code_files(root) if path.suffix == ".py"}
        self.modules = {name: self._statements(name, path) for name, path in self.files.items()}

    def parts(self) -> Iterator[Name]:
        """What forms no weights, in this package and in those of its stages."""
        for name in sorted(self.modules):
            if (last := name.rpartition(".")[2]) in LIVE:
                yield name, LIVE[last]

    def forms_weights(self) -> dict[str, list[str]]:
        """Module -> the statements that form weights."""
        parts = list(self.parts())
        used_by_parts = {module for module, _ in parts} | {*self.reached(parts)}
        roots = [
            (name, WHOLE)
            for name in self.modules
            if name.rpartition(".")[2] in FORMING or self._is_package(name) or name not in used_by_parts
        ]
        return self.reached([*roots, *((name, "train_rows") for name, part in parts if part == "test_rows")])

    def reached(self, roots: Iterable[Name]) -> dict[str, list[str]]:
        """Module -> the statements that these names come to, and all that those use, in their order."""
        found: dict[str, set[int]] = {}
        todo, seen = list(roots), set()
        while todo:
            module, name = todo.pop()
            if (module, name) in seen:
                continue
            seen.add((module, name))
            for number, statement in enumerate(self.modules.get(module, ())):
                if name == WHOLE or name in statement.defines or not statement.defines:
                    found.setdefault(module, set()).add(number)
                    todo += [*statement.imports, *((module, used) for used in statement.uses)]
        return {name: [self.modules[name][number].text for number in sorted(found[name])] for name in sorted(found)}

    def hash(self, roots: Iterable[Name]) -> str:
        """Of what these names come to."""
        return hashlib.sha256(repr(self.reached(roots)).encode()).hexdigest()[:16]

    def _statements(self, module: str, path: Path) -> list[Statement]:
        source = path.read_bytes()
        try:
            tree = _without_docstrings(ast.parse(source, str(path)))
        except (SyntaxError, ValueError):
            return [Statement(repr(source), frozenset(), frozenset(), ())]
        return [self._statement(module, node) for whole in tree.body for node in _alone(whole)]

    def _statement(self, module: str, node: ast.stmt) -> Statement:
        inside = list(ast.walk(node))
        names = [found for found in inside if isinstance(found, ast.Name)]
        imports = tuple(taken for found in inside for taken in self._taken(module, found))
        return Statement(ast.dump(node), frozenset(_defined(node)), frozenset(name.id for name in names), imports)

    def _taken(self, module: str, node: ast.AST) -> Iterator[Name]:
        """What an import, or a reference in a string, takes from modules of the package."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for where, name in REFERENCE.findall(node.value):
                yield where.removeprefix(PACKAGE).lstrip("."), name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == PACKAGE:
                    yield alias.name.removeprefix(PACKAGE).lstrip("."), WHOLE
        elif isinstance(node, ast.ImportFrom):
            above = [PACKAGE, *filter(None, module.split("."))]
            above = above[: len(above) - node.level + self._is_package(module)] if node.level else []
            where = ".".join([*above, *([node.module] if node.module else [])])
            if where.partition(".")[0] == PACKAGE:
                where = where.removeprefix(PACKAGE).lstrip(".")
                for alias in node.names:
                    below = f"{where}.{alias.name}".lstrip(".")
                    yield (below, WHOLE) if below in self.files else (where, alias.name.replace("*", WHOLE))

    def _is_package(self, module: str) -> bool:
        return self.files[module].name == "__init__.py"


def code_hash(function: Callable[..., Any]) -> str:
    """Of what a function of a competition's package comes to; empty for any other."""
    function = inspect.unwrap(function)
    package, _, module = str(getattr(function, "__module__", "")).partition(".")
    if package != PACKAGE or not inspect.isfunction(function):
        return ""
    file = Path(inspect.getfile(function))
    return Code(file.parents[module.count(".") + (file.name == "__init__.py")]).hash([(module, function.__name__)])


def code_files(root: Path) -> list[Path]:
    """What belongs to a package; caches and hidden files do not."""
    return [
        path
        for path in root.rglob("*")
        if path.is_file()
        and not any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(root).parts)
    ]


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _alone(node: ast.stmt) -> Iterator[ast.stmt]:
    """A statement; an import of several names as one of each."""
    if isinstance(node, ast.Import):
        yield from (ast.Import([alias]) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (ast.ImportFrom(node.module, [alias], node.level) for alias in node.names)
    else:
        yield node


def _defined(node: ast.stmt) -> Iterator[str]:
    """The names that a statement gives a meaning to."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
        return
    for found in ast.walk(node):
        if isinstance(found, ast.Name) and isinstance(found.ctx, ast.Store):
            yield found.id
        elif isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield found.name
        elif isinstance(found, ast.alias):
            yield found.asname or found.name.partition(".")[0]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.body = [each for each in node.body if not _is_text(each)]
    return tree


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
