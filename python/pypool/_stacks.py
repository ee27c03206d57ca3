"""Where a task of the event loop stands."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List

#: Frames of a task's stack that are told, the innermost ones.
MAX_FRAMES = 64
#: Whose frames are not told: that of the task itself is the runtime's.
OWN = "pypool._tasks"


def stack_of(task: Any, items: Any = None) -> str:
    """Where a task is suspended, and the tasks that it waits for, in faulthandler's words: the
    innermost frame first. `items` is the generator whose next item it waits for, which the chain of
    awaits does not show.
    """
    frames: List[str] = []
    seen: List[Any] = []
    while task is not None and task not in seen:
        seen.append(task)
        _walk(_coroutine(task), frames)
        if items is not None:
            _walk(items, frames)
            items = None
        waits = getattr(task, "_fut_waiter", None)
        children = getattr(waits, "_children", None)
        waiting: List[Any] = [child for child in children if not child.done()] if children else [waits]
        task = waiting[0] if waiting and hasattr(waiting[0], "get_stack") else None
    lines = frames[: -MAX_FRAMES - 1 : -1] or ["  <it has not begun>\n"]
    return "Task of the call (most recent call first):\n" + "".join(lines)


def _coroutine(task: Any) -> Any:
    get = getattr(task, "get_coro", None)
    return get() if get is not None else None


def _walk(coroutine: Any, frames: List[str]) -> None:
    for _ in range(1000):
        if coroutine is None:
            break
        frame = _first(coroutine, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None and frame.f_globals.get("__name__") != OWN:
            code = frame.f_code
            frames.append('  File "%s", line %d in %s\n' % (code.co_filename, frame.f_lineno, code.co_name))
        coroutine = _first(coroutine, "cr_await", "gi_yieldfrom", "ag_await")


def _first(owner: Any, *names: str) -> Any:
    return next((found for found in (getattr(owner, name, None) for name in names) if found is not None), None)
