# ruff: noqa: E501
"""Payloads in memory that the host shares, with the host's side of it played here."""

from __future__ import annotations

import gc
import os
import random
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from pypool import _life, _memory, _page, _payloads, _requests, _wire
from pypool._memory import LENT_WORDS, SLOTS, TOOK_WORDS, Lent, put
from pypool._page import MEMORY, MEMORY_AT
from pypool._payloads import begun

HALF = 1 << 20


@pytest.fixture()
def page() -> Iterator[Any]:
    if not hasattr(os, "memfd_create"):
        pytest.skip("no memfd")
    fd = os.memfd_create("memory")
    os.ftruncate(fd, MEMORY_AT + 2 * HALF)
    before = MEMORY.map, MEMORY.half
    state = _memory.STATE
    _memory.STATE = _memory._State()
    _memory.STATE.live, _memory.STATE.out = {}, []
    yield _page.shared(fd)
    MEMORY.map, MEMORY.half = before
    _memory.STATE = state


def test_a_place_is_let_go_of_when_nothing_refers_to_it(page: Any) -> None:
    MEMORY.map[MEMORY_AT + 4096 : MEMORY_AT + 4101] = b"given"
    word = LENT_WORDS + 7
    before = page[word]
    lent = Lent(page, 7, 4096, 5)
    assert len(lent) == 5
    assert (lent.copy(), page[word]) == (b"given", before)
    del lent
    assert page[word] == before + 1

    view = Lent(page, 7, 4096, 5).view()
    part = view[1:3]
    with pytest.raises(TypeError):
        view[0] = 1
    view.release()
    del view
    gc.collect()
    assert (page[word], part.tobytes()) == (before + 1, b"iv")
    loop: List[Any] = [part]
    loop.append(loop)
    del part, loop
    gc.collect()
    assert page[word] == before + 2

    Lent(page, 7, 4096, 5)  # never looked at
    assert page[word] == before + 3
    assert not _memory.STATE.live


def test_a_payload_may_be_looked_at_again(page: Any) -> None:
    MEMORY.map[MEMORY_AT + 4096 : MEMORY_AT + 4101] = b"given"
    word = LENT_WORDS + 7
    before = page[word]
    lent = Lent(page, 7, 4096, 5)
    assert lent.copy() == lent.view().tobytes() == lent.view().tobytes() == lent.copy() == b"given"
    view = lent.view()
    del lent
    gc.collect()
    assert (page[word], view.tobytes()) == (before, b"given"), "who has a view keeps the place, whichever it is"
    del view
    gc.collect()
    assert page[word] == before + 1


def test_a_line_that_is_used_up_keeps_no_place(page: Any) -> None:
    for line in (
        b'{"id":1,"command":"f","args":[null],"blobs":[{"at":[0]}]}',
        b'{"command":"f","id":1,"args":[null],"blobs":[{"at":[0]}]}',
        b'{"batch":[{"id":1,"command":"f","args":[null],"blobs":[{"at":[0]}]}]}',
    ):
        word = LENT_WORDS + 7
        before = page[word]
        payloads: List[Any] = [Lent(page, 7, 4096, 5)]
        laden = _payloads.laden(line, payloads)
        del payloads
        try:
            _requests.parse_request(laden)
        except _wire.Batch:
            pass
        gc.collect()
        assert page[word] == before + 1, line


@pytest.mark.parametrize(
    "place",
    [
        (-1, 0, 1),
        (SLOTS, 0, 1),
        (0, -1, 1),
        (0, 0, -1),
        (0, HALF + 1, 0),
        (0, HALF, 1),
        (0, 1, HALF),
        (0, 1 << 70, 1),
        (0, 1, 1 << 70),
    ],
)
def test_what_is_no_place_is_refused(page: Any, place: Tuple[int, int, int]) -> None:
    with pytest.raises(ValueError):
        Lent(page, *place)
    assert begun(b'{"raw":[[%d,%d,%d]]}' % place, HALF, page) is None
    assert not _memory.STATE.live


@pytest.mark.parametrize(
    "head",
    [
        "[0,0,5],[0,4096,5]",
        "[0,0,5],[1,4,5]",
        "[1,4096,5],5,[2,0,4097]",
        "[0,0]",
        "[0,0,5,6]",
        "[0,0,5.0]",
        "[0,0,true]",
        "[]",
        '["0",0,5]',
        "[[0,0,5]]",
        "[0,0,600000],600000",
    ],
)
def test_what_is_no_head_is_refused_and_keeps_nothing(page: Any, head: str) -> None:
    assert begun(b'{"raw":[%s]}' % head.encode(), HALF, page) is None
    gc.collect()
    assert not _memory.STATE.live


def test_a_place_that_is_in_use_is_not_taken_again(page: Any) -> None:
    first = begun(b'{"raw":[[3,0,10]]}', HALF, page)
    assert first is not None
    assert begun(b'{"raw":[[3,4096,10]]}', HALF, page) is None
    del first
    assert begun(b'{"raw":[[3,4096,10]]}', HALF, page) is not None


def test_heads_at_random_are_read_or_refused(page: Any) -> None:
    source = random.Random(3)
    tokens = [
        "[",
        "]",
        ",",
        "0",
        "1",
        "5",
        "4096",
        "-1",
        "1e3",
        "191",
        "192",
        "1048576",
        "null",
        '"',
        "{",
        "}",
        " ",
        "99999999999999999999",
    ]
    for _ in range(20_000):
        head = "".join(source.choices(tokens, k=source.randrange(12)))
        ahead = begun(b'{"raw":[%s]}' % head.encode(), HALF, page)
        if ahead is not None:
            for size in ahead.sizes:
                assert type(size) is int or 0 <= size.at - MEMORY_AT <= size.at - MEMORY_AT + size.size <= HALF
    gc.collect()
    assert not _memory.STATE.live


def test_what_is_put_out_stays_until_the_host_has_read_it(page: Any) -> None:
    source = random.Random(4)
    unread: Dict[int, Tuple[int, bytes]] = {}
    full = 0
    for number in range(3000):
        data = bytes([number & 255]) * source.randrange(1, 60_000)
        place = put(page, data)
        if place:
            slot, at, size = map(int, place[1:-1].split(","))
            assert slot not in unread and size == len(data) and at + size <= HALF
            unread[slot] = at, data
        else:
            full += 1
        while unread and (not place or source.random() < 0.5):
            place = "room"
            slot = source.choice(list(unread))
            at, data = unread.pop(slot)
            start = MEMORY_AT + HALF + at
            assert MEMORY.map[start : start + len(data)] == data
            page[TOOK_WORDS + slot] += 1
    assert full, "it was full now and then"


def test_a_forked_child_puts_nothing_out_where_its_parent_does(page: Any) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    _life.guard_forks([], [])  # as a worker does at its start
    kept = Lent(page, 1, 0, 5).view()
    word = page[LENT_WORDS + 1]
    pid = os.fork()
    if not pid:
        os._exit(0 if put(page, b"x" * 5000) == "" else 1)
    _, status = os.waitpid(pid, 0)
    del kept
    gc.collect()
    assert page[LENT_WORDS + 1] == word, "the child has it, too: the place is never used again"
    assert os.WEXITSTATUS(status) == 0
