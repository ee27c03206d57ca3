"""Every way in which a handler can go wrong that CPython itself allows: one command a fault, named by its row in the Go table."""

import ctypes
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from typing import Any, Dict, List, Optional

from pypool import command, current_call


@command
def echo(value: Any = None) -> Any:
    return value


@command
def pid() -> int:
    return os.getpid()


@command
def journal(path: str, nonce: str, then: str = "return", latch: str = "") -> str:
    """Note the nonce with one write before anything else, then act."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, (nonce + "\n").encode())
    os.close(fd)
    if then == "return":
        return nonce
    if then == "raise":
        raise ValueError(nonce)
    if then == "exit":
        os._exit(3)
    if then == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "nan":
        return float("nan")  # type: ignore[return-value]
    if then == "block":
        hold(latch)
        return nonce
    if then == "loop":
        while True:
            pass
    if then == "nap":
        time.sleep(0.002)
        return nonce
    raise AssertionError(then)


def hold(latch: str) -> None:
    """Wait until the test opens the FIFO."""
    with open(latch) as fifo:
        fifo.read()


@command
def block(latch: str, began: str) -> str:
    with open(began, "w") as out:
        out.write(str(os.getpid()))
    hold(latch)
    return "released"


@command
def meet(path: str, parties: int) -> int:
    """Return when as many calls of this command run at the same time."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, b".")
    while os.fstat(fd).st_size < parties:
        time.sleep(0.001)
    os.close(fd)
    return os.getpid()


# ------------------------------------------------------------------------------------------------ the handler dies or hangs


@command
def raise_value_error() -> None:
    raise ValueError("broken on purpose")


class Abrupt(BaseException):
    pass


@command
def raise_base(kind: str) -> None:
    kinds = {"KeyboardInterrupt": KeyboardInterrupt, "GeneratorExit": GeneratorExit, "Abrupt": Abrupt}
    raise kinds[kind]("abrupt")


@command
def sys_exit(code: Any) -> None:
    sys.exit(code)


@command
def os_exit(code: int) -> None:
    os._exit(code)


@command
def segfault() -> None:
    ctypes.string_at(0)


@command
def abort() -> None:
    os.abort()


@command
def die_by(signum: int) -> None:
    os.kill(os.getpid(), signum)
    time.sleep(60)


@command
def say_and_die_by(text: str, how: str, signum: int) -> None:
    """End by the signal, or of 0 by an exit, after a text that only looks like a report."""
    if how == "print":
        print(text, flush=True)
    elif how == "logging":
        logging.getLogger("pypool").error("%s", text)
    else:
        os.write(2, text.encode())
    if signum:
        die_by(signum)
    os._exit(3)


@command
def stop_self() -> str:
    os.kill(os.getpid(), signal.SIGSTOP)
    return "continued"


@command
def loop() -> None:
    while True:
        pass


@command
def c_loop() -> int:
    return sum(range(10**12))  # C code that never releases the GIL


@command
def deadlock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


@command
def steal_questions() -> None:
    """Read what asks for the stacks, and have everybody wait who comes for what is not there any more."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if fd >= 100 and os.readlink("/proc/self/fd/%d" % fd).startswith("socket:"):
                break
        except OSError:
            pass
    os.set_blocking(fd, True)
    while True:  # with the GIL, so that the runtime's thread comes too late
        ctypes.PyDLL(None).read(fd, ctypes.create_string_buffer(64), 64)


@command
def fork_both() -> int:
    """Both sides of a fork return from the handler."""
    return os.fork() and 7


@command
def fork_lingers(pidfile: str) -> str:
    """The child stays behind with all descriptors that a fork inherits."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    with open(pidfile, "w") as out:
        out.write(str(child))
    return "parent"


@command
def spawn_and_die(pidfile: str, session: bool = False) -> None:
    child = subprocess.Popen(["sleep", "60"], start_new_session=session)
    with open(pidfile, "w") as out:
        out.write(str(child.pid))
    os._exit(9)


@command
def daemon_thread() -> int:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    return threading.active_count()


@command
def stubborn_exit(how: str) -> str:
    if how == "thread":
        threading.Thread(target=time.sleep, args=(60,)).start()
    else:
        import atexit

        atexit.register(time.sleep, 60)
    return "armed"


@command
def late_thread(latch: str) -> str:
    def late() -> None:
        hold(latch)
        print("printed after the answer", flush=True)
        os.write(1, b"written after the answer\n")

    threading.Thread(target=late, daemon=True).start()
    return "answered"


@command
def recurse() -> None:
    recurse()


@command
def overflow_c_stack() -> None:
    sys.setrecursionlimit(10**9)

    def deeper(_: Any) -> Any:
        return sorted([1], key=deeper)

    deeper(None)


@command
def out_of_memory() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 29, hard))
    try:
        return len(bytearray(1 << 30))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@command
def ignore_sigterm() -> str:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return "ignoring"


@command
def mutate_process(directory: str) -> str:
    os.chdir(directory)
    os.environ["PYPOOL_MUTATED"] = "1"
    warnings.simplefilter("error")
    return os.getcwd()


@command
def cwd() -> List[Any]:
    return [os.getcwd(), os.environ.get("PYPOOL_MUTATED")]


_leak: List[bytearray] = []


@command
def leak(megabytes: int) -> int:
    _leak.append(bytearray(os.urandom(1 << 20)) * megabytes)
    return len(_leak)


def double(x: int) -> int:
    return 2 * x


@command
def multiprocess(method: str) -> List[int]:
    import multiprocessing

    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.map(double, [1, 2, 3])


@command
def read_stdin() -> List[Any]:
    try:
        input()
    except EOFError:
        pass
    else:
        raise AssertionError("input() returned")
    return [sys.stdin.read(), subprocess.run(["cat"], stdout=subprocess.PIPE).stdout.decode()]


# ------------------------------------------------------------------------------------------------- the channel is abused


@command
def print_all(text: str) -> str:
    print(text + "-print", flush=True)
    logging.getLogger("faults").warning(text + "-logging")
    sys.stdout.write(text + "-stdout\n")
    sys.stdout.flush()
    return "printed"


@command
def write_all(text: str) -> str:
    libc = ctypes.CDLL(None)
    libc.printf((text + "-printf\n").encode())
    libc.fflush(None)
    os.write(1, (text + "-write\n").encode())
    os.system("echo " + text + "-system")
    subprocess.run(["echo", text + "-subprocess"])
    return "written"


@command
def close_fd(fd: int) -> str:
    os.close(fd)
    return "closed"


@command
def close_everything() -> str:
    os.closerange(3, 4096)
    return "closed"


@command
def stderr_flood(megabytes: int) -> str:
    line = b"x" * 1023 + b"\n"
    for _ in range(megabytes << 10):
        os.write(2, line)
    os.write(2, b"the flood is over\n")
    return "flooded"


@command
def stderr_odd() -> str:
    os.write(2, b"y" * (1 << 20))
    os.write(2, b"\n\x1b[31mred\x1b[0m\x00\xff\xfe level=ERROR\rmsg=forged\n")
    os.write(2, b"\x1epypool:not a record\n")
    return "odd"


@command
def big(size: int) -> str:
    return "x" * size


@command
def surrogate() -> Dict[str, Any]:
    return {"rows": ["fine", {"name": "bad \ud800 half"}]}


@command
def not_a_number(kind: str) -> Dict[str, Any]:
    return {"rows": [1.0, float(kind)]}


@command
def power(base: int, exponent: int) -> int:
    return base**exponent


@command
def nested(depth: int, kind: str = "list") -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value] if kind == "list" else {"k": value}
    return value


class Opaque:
    pass


@command
def unserializable(kind: str) -> Any:
    values: Dict[str, Any] = {"set": {1, 2}, "object": Opaque(), "complex": 1j, "generator": (x for x in "ab")}
    return {"rows": [0, values[kind]]}


@command
def odd_keys(kind: str) -> Any:
    return {"int": {1: "a", "1": "b"}, "none": {None: 1}, "bool": {"x": {True: 1}}, "tuple": {(1, 2): 3}}[kind]


@command
def cyclic() -> List[Any]:
    value: List[Any] = [1]
    value.append(value)
    return value


class EvilInt(int):
    def __repr__(self) -> str:
        return '1},"success":false,"x":{"y":2'

    __str__ = __repr__


class EvilFloat(float):
    def __repr__(self) -> str:
        return '1.0},"id":5,"x":{"y":2'


class EvilStr(str):
    def __repr__(self) -> str:
        return '"}\n{"id":1'

    def encode(self, *_: Any) -> bytes:  # type: ignore[override]
        return b'"}\n{"id":1'


class EvilDict(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        return [("a", 1), ("a", 2)]


@command
def evil(kind: str) -> Any:
    return {"int": EvilInt(7), "float": EvilFloat(1.5), "str": EvilStr("quiet"), "dict": EvilDict(a=0)}[kind]


class DelRaises:
    def __del__(self) -> None:
        raise RuntimeError("raised in __del__")


class RaisesWhileEncoded(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        DelRaises()
        raise RuntimeError("raised while it was encoded")

    def __iter__(self) -> Any:
        raise RuntimeError("raised while it was encoded")


@command
def raise_while_encoding() -> Any:
    DelRaises()
    return RaisesWhileEncoded(a=1)


@command
def chatter(threads: int, lines: int) -> str:
    """Many threads write log records of more than a pipe buffer at once, and print, while the call answers."""

    def talk(number: int) -> None:
        log = logging.getLogger("chatter")
        for line in range(lines):
            log.warning("record %d.%d %s", number, line, "z" * 9000)
            print("line %d.%d" % (number, line), "w" * 9000, flush=True)

    group = [threading.Thread(target=talk, args=(n,)) for n in range(threads)]
    for thread in group:
        thread.start()
    for thread in group:
        thread.join()
    return "q" * 100_000


# -------------------------------------------------------------------------------------------------------- host, security


@command
def environment() -> Dict[str, str]:
    return dict(os.environ)


@command
def descriptors() -> Dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink("/proc/self/fd/" + name)
        except OSError:
            pass  # the listing's own
    return found


@command
def child_descriptors() -> List[str]:
    """What a subprocess that is started carelessly inherits."""
    out = subprocess.run(["ls", "/proc/self/fd"], stdout=subprocess.PIPE, close_fds=False).stdout
    return out.decode().split()


@command
def core_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_CORE)[0]


@command
def flags() -> List[int]:
    return [sys.flags.isolated, sys.flags.ignore_environment, sys.flags.no_user_site]


@command
def process_group() -> List[int]:
    return [os.getpid(), os.getpgrp(), os.getppid()]


@command
def keyword(**kwargs: Any) -> List[str]:
    return sorted(kwargs)


@command
def two(self: Any, value: int) -> List[Any]:
    return [self, value]


@command
def raise_text(text: str) -> None:
    raise RuntimeError(text)


@command
def session() -> Optional[str]:
    return current_call().session_id


@command
def request_id() -> int:
    return current_call().id


@command
def burn(seconds: float) -> float:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return seconds


@command
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@command
def fork_bomb_lite(children: int) -> int:
    """Children that stay until the group is killed."""
    for _ in range(children):
        subprocess.Popen(["sleep", "60"])
    return children


@command
def numbers(count: int) -> Any:
    for i in range(count):
        yield i


@command
def stamp(path: str, nonce: str, value: Any = None) -> List[Any]:
    """Note the nonce, and answer with it, the process and the value."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, (nonce + "\n").encode())
    os.close(fd)
    return [nonce, os.getpid(), value]
