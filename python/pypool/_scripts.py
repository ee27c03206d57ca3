"""Scripts that are no .py files: zip applications and compiled files are run, others are refused in
words.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def load(name: str, script: str) -> bool:
    """Import the script under the name, if it is of a kind that takes more than reading its source;
    else False.
    """
    if script.endswith(".ipynb"):
        raise ImportError("a notebook is no script: make one of it with `jupyter nbconvert --to script %s`" % script)
    if os.path.isdir(script):
        raise ImportError("%s is a folder: a package is started with Config.Module, found from Config.Dir or PYTHONPATH" % script)
    if script.endswith(".pyc"):
        from importlib.machinery import SourcelessFileLoader

        _run(name, script, SourcelessFileLoader(name, script).get_code(name))
        return True
    import zipimport

    try:
        archive = zipimport.zipimporter(script)
    except ImportError:
        return False  # a source file of another name, then
    sys.path.insert(0 if script in sys.path else len(sys.path), script)
    _run(name, script, archive.get_code("__main__"))
    return True


def _run(name: str, script: str, code: Any) -> None:
    module: Any = type(sys)(name)
    module.__file__ = script
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)
    except BaseException:
        sys.modules.pop(name, None)
        raise
