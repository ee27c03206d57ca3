"""What the quickstart has done in Python: read Python source files and measure them.

An ordinary worker: typed functions under ``@command``. Try it without Go: ``python -m pypool worker.py``, with pypool
installed from the folder python/.
"""

import ast
import os
import sys
import sysconfig
import warnings
from dataclasses import dataclass
from typing import List, Optional, Tuple

from pypool import command

warnings.simplefilter("ignore")  # the compiler's remarks on old code are not our subject

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Each of these is one more way through a function.
BRANCHES: Tuple[type, ...] = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)
if sys.version_info >= (3, 10):
    BRANCHES += (ast.match_case,)


@dataclass
class Function:
    """One function: where it begins, how long it is, and its cyclomatic complexity."""

    name: str
    line: int
    lines: int
    complexity: int


@dataclass
class FileReport:
    """One source file; ``complexity`` is the sum over its functions."""

    lines: int
    functions: int
    classes: int
    complexity: int
    longest: Optional[Function]
    hardest: Optional[Function]


@command
def stdlib_files(limit: int = 0) -> List[str]:
    """List the source files of this interpreter's standard library; at most ``limit`` when it is positive."""
    found: List[str] = []
    for folder, folders, names in os.walk(sysconfig.get_paths()["stdlib"]):
        folders[:] = sorted(set(folders) - {"site-packages", "dist-packages", "__pycache__"})
        found += (os.path.join(folder, name) for name in sorted(names) if name.endswith(".py"))
    return found[:limit] if limit > 0 else found


@command
def analyze(path: str) -> FileReport:
    """Parse one file and measure it. A file that is not valid Python raises SyntaxError."""
    with open(path, "rb") as file:
        source = file.read()
    functions, classes = measure(ast.parse(source, path))  # bytes: the file's own coding line is obeyed
    return FileReport(
        lines=len(source.splitlines()),
        functions=len(functions),
        classes=classes,
        complexity=sum(function.complexity for function in functions),
        longest=max(functions, key=lambda function: function.lines, default=None),
        hardest=max(functions, key=lambda function: function.complexity, default=None),
    )


def measure(tree: ast.Module) -> Tuple[List[Function], int]:
    """Return the functions of a module, nested ones and methods too, and its number of classes.

    A function's complexity is one, and one more for each branch; those of a nested function are its own.
    """
    functions: List[Function] = []
    classes = 0
    todo: List[Tuple[ast.AST, Optional[Function]]] = [(tree, None)]
    while todo:
        node, owner = todo.pop()
        if isinstance(node, FUNCTIONS):
            last = node.end_lineno or node.lineno
            owner = Function(node.name, node.lineno, last - node.lineno + 1, complexity=1)
            functions.append(owner)
        elif isinstance(node, ast.ClassDef):
            classes += 1
        elif owner is not None:
            owner.complexity += branches(node)
        todo += [(child, owner) for child in ast.iter_child_nodes(node)]
    return functions, classes


def branches(node: ast.AST) -> int:
    """Count the branches that one node adds: each ``and``, each ``or`` and each ``if`` of a comprehension is one too."""
    if isinstance(node, BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    return 1 + len(node.ifs) if isinstance(node, ast.comprehension) else 0
