"""@setup and @health functions: they run, or are refused."""

from __future__ import annotations

import pytest
from conftest import Start

GENERATORS = {
    "function": "@{hook}\ndef fit():\n    yield False\n",
    "async": "@{hook}\nasync def fit():\n    yield False\n",
    "lambda": "{hook}(lambda: (yield))\n",
    "partial": "import functools\ndef fit(n): yield n\n{hook}(functools.partial(fit, 1))\n",
    "object": "class Fit:\n    def __call__(self): yield\n{hook}(Fit())\n",
    "method": "class Fit:\n    def fit(self): yield\n{hook}(Fit().fit)\n",
    "decorated": "import functools\ndef fit(): yield\n@{hook}\n@functools.wraps(fit)\ndef other():\n    yield from fit()\n",
    "cached": "import functools\n@{hook}\n@functools.lru_cache(maxsize=None)\ndef fit(): yield\n",
}
#: What is seen when it has been called.
RETURNED = {
    "decorated": "import functools\ndef fit(): yield\n@{hook}\n@functools.wraps(fit)\ndef other(): return fit()\n",
    "returned": "@{hook}\ndef fit(): return (x for x in [False])\n",
    "awaited": "@{hook}\nasync def fit(): return (x for x in [False])\n",
    "async": "async def items(): yield\n@{hook}\ndef fit(): return items()\n",
    "coroutine": "async def later(): pass\n@{hook}\nasync def fit(): return later()\n",
    "contextmanager": "import contextlib\n@{hook}\n@contextlib.contextmanager\ndef fit(): yield\n",
    "asynccontextmanager": "import contextlib\n@{hook}\n@contextlib.asynccontextmanager\nasync def fit(): yield\n",
}


@pytest.mark.parametrize("hook", ["setup", "health"])
@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_is_refused(start: Start, hook: str, kind: str) -> None:
    error = start("from pypool import health\n" + GENERATORS[kind].format(hook=hook)).hello["error"]
    assert (error["stage"], error["type"]) == ("import", "TypeError")
    assert error["message"].startswith("@%s goes on a function that runs when it is called: " % hook)
    assert error["message"].endswith(" is a generator, and would never run")


@pytest.mark.parametrize("hook", ["setup", "health"])
@pytest.mark.parametrize("kind", RETURNED)
def test_a_generator_that_is_returned_is_an_error(start: Start, hook: str, kind: str) -> None:
    error = start("from pypool import health\n" + RETURNED[kind].format(hook=hook)).hello["error"]
    assert (error["stage"], error["type"]) == (hook, "TypeError")
    assert "whose code never runs" in error["message"]


def test_what_else_is_returned_is_nobodys(start: Start) -> None:
    script = """
        from unittest import mock
        from pypool import command, health
        done = []
        @setup
        def opened(): return open(__file__)
        @setup
        def mocked(): return mock.MagicMock(spec=["gen"])
        @setup
        def numbers(): return iter([1])
        @setup
        async def later():
            import asyncio
            return asyncio.get_event_loop().create_future()
        @health
        def items(): return [0]
        @health
        async def fit(): done.append(1)
        @command
        def ran(): return done
    """
    assert start(script).result("ran") == [1]
