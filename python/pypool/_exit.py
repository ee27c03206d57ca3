"""The orderly end of a worker: threads, atexit functions and buffers get a second."""

from __future__ import annotations

import os
import sys
from _thread import start_new_thread
from time import sleep

from . import _life
from ._call import RUNNING
from ._finder import imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

#: Seconds that non-daemon threads and atexit functions get.
EXIT_TIME = 1.0


def finish(code: int) -> NoReturn:
    """End the process as an interpreter would, but within EXIT_TIME, whatever threads and atexit
    functions do. These are no call's.
    """
    _life.WATCH.armed = False
    RUNNING.request = None

    def expire() -> None:
        sleep(EXIT_TIME)
        _life.end(code)

    try:
        import faulthandler

        start_new_thread(expire, ())
        # For an exit function that keeps the GIL: this clock is not Python's.
        null = os.open(os.devnull, os.O_WRONLY)
        faulthandler.dump_traceback_later(2 * EXIT_TIME, exit=True, file=null)
    except Exception:
        _life.end(code)
    for step in (_join_threads, _run_atexit, _stop_trackers, _flush):
        try:
            step()
        except BaseException as error:
            _complain(error)
    _life.end(code)


def _join_threads() -> None:
    threading = imported("threading")
    shutdown = getattr(threading, "_shutdown", None)
    if shutdown is not None:
        shutdown()


def _run_atexit() -> None:
    import atexit

    atexit._run_exitfuncs()


def _stop_trackers() -> None:
    """Have what is left of shared memory removed now."""
    for name in ("multiprocessing", "joblib.externals.loky.backend", "loky.backend"):
        tracker = getattr(imported(name + ".resource_tracker"), "_resource_tracker", None)
        if tracker is not None and hasattr(tracker, "_stop"):
            tracker._stop()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _complain(error: BaseException) -> None:
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException:
        pass
