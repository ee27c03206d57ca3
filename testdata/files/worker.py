"""Worker code that is embedded in the test: what it needs lies beside it."""

import os
import sys

import app
import app._private
from app.inner import deep
from pypool import command


@command
def where() -> dict:
    here = os.path.dirname(__file__)
    with open(os.path.join(here, "app", "data.txt"), encoding="utf-8") as data:
        text = data.read()
    return {
        "file": __file__,
        "data": text.strip(),
        "private": app._private.VALUE,
        "deep": deep.VALUE,
        "package": app.__file__,
        "cwd": os.getcwd(),
        "path": sys.path,
        "mode": os.stat(__file__).st_mode & 0o777,
    }


@command
def write() -> str:
    """Try to change the code, as another user than root."""
    if os.getuid() == 0:
        os.setuid(os.stat(__file__).st_uid or 65534)
    tried = []
    for path, flags in ((__file__, os.O_WRONLY), (os.path.join(os.path.dirname(__file__), "new.py"), os.O_CREAT | os.O_WRONLY)):
        try:
            os.close(os.open(path, flags))
            tried.append("written")
        except PermissionError:
            tried.append("refused")
    return " ".join(tried)


@command
def later() -> int:
    """Import what nobody has imported at the start."""
    import app.lazy

    return app.lazy.VALUE
