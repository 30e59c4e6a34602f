"""What a test of this project says in its source: which words it hands on, itself or by what it calls in its file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


class NoSuchTest(Exception):
    """No function of that name is in that file."""


def words_of(test: str) -> frozenset[str]:
    """The texts in a test and in the functions, fixtures and constants of its file that it uses, and they use.

    Args:
        test: The file and the function, as pytest names them: tests/unit/test_a.py::test_b.

    Returns:
        Each text as a whole.

    Raises:
        NoSuchTest: If it is not there.
    """
    file, _, name = test.partition("::")
    defined = _defined(file)
    if name not in defined or not name.startswith("test_"):
        raise NoSuchTest(test)
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        now = waiting.pop()
        if now in reached or now not in defined:
            continue
        reached.add(now)
        for node in ast.walk(defined[now]):
            if isinstance(node, ast.Name):
                waiting.append(node.id)
            elif isinstance(node, ast.arg):
                waiting.append(node.arg)  # A fixture.
    return frozenset(text for one in reached for text in _texts(defined[one]))


def _texts(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue  # A docstring runs nothing.
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value
        yield from _texts(child)


@cache
def _defined(file: str) -> dict[str, ast.AST]:
    found: dict[str, ast.AST] = {}
    for node in ast.parse(Path(file).read_text("utf-8")).body if Path(file).exists() else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests."):
            # Helpers that are shared; what they use in turn is theirs.
            theirs = _defined(node.module.replace(".", "/") + ".py")
            found |= {one.asname or one.name: theirs[one.name] for one in node.names if one.name in theirs}
    return found
