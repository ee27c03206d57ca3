"""The runtime's modules stand in layers: an import goes down, and so there is no circle."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Dict, List, Set, Tuple

import pytest
from host import PACKAGE

MODULES = {path.stem: path for path in PACKAGE.glob("*.py")}
NAMES = set(MODULES)


def documented() -> List[str]:
    """The order that the package's comment gives, from the ground up."""
    order: List[str] = []
    for line in MODULES["__init__"].read_text("ascii").splitlines():
        if line.startswith("#   "):
            order += [word for word in line[1:].split() if word in NAMES or word.startswith("_")]
    return order


def imports(path: Path) -> List[Tuple[int, str]]:
    """What a module imports of the package, wherever it does, with the lines. `__init__` stands for the package itself."""
    found: List[Tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text("ascii"))):
        names: List[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "pypool." * (node.level == 1) + (node.module or "")
            names = [module.rstrip(".")] if module.rstrip(".") != "pypool" else []
            if not names:
                names = ["pypool." + alias.name if alias.name in NAMES else "pypool" for alias in node.names]
        line = getattr(node, "lineno", 0)
        for name in names:
            package, _, rest = name.partition(".")
            if package == "pypool":
                found.append((line, rest.partition(".")[0] or "__init__"))
    return found


def test_the_order_names_each_module_once() -> None:
    assert sorted(documented()) == sorted(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_an_import_goes_down(name: str) -> None:
    order = documented()
    below = set(order[: order.index(name)])
    wrong = ["%s.py:%d imports %s" % (name, line, other) for line, other in imports(MODULES[name]) if other not in below]
    assert not wrong


def test_there_is_no_circle() -> None:
    """By the imports alone, whatever order is documented."""
    left: Dict[str, Set[str]] = {name: {other for _, other in imports(path)} for name, path in MODULES.items()}
    while left:
        free = {name for name, needs in left.items() if not needs & set(left)}
        assert free, "these import each other: %s" % sorted(left)
        left = {name: needs for name, needs in left.items() if name not in free}


def test_imports_are_seen_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "import pypool._call\nfrom . import _bind, __version__\nfrom ._wire import MAX_ID\nfrom pypool import _keys\n"
        "from pypool._page import WORDS\nimport os\nfrom typing import Any\n"
        "def f():\n    from ._json import scan\n    class C:\n        from . import _life\n"
    )
    assert {other for _, other in imports(path)} == set("_call _bind __init__ _wire _keys _page _json _life".split())
