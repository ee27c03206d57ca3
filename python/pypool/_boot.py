# The text given to `python -I -u -X faulthandler -c`. It moves the protocol away from fds 0 and 1
# before anything else can write there, reads the hello line, and imports the runtime from the
# sources in it. Python 2.7 and 3.4 must still parse it, because it is what tells their users that
# they are too old. It defines one name in __main__ and deletes it.
import os
import sys


def _pypool_boot():
    def private(fd):
        # High numbers survive handlers that close every descriptor they can count to; a small
        # RLIMIT_NOFILE refuses them.
        for lowest in (100, 3):
            try:
                import fcntl

                return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)
            except (ImportError, EnvironmentError):
                pass
        return os.dup(fd)

    def fail(kind, message):
        # Written without json: whatever is broken here may be json itself.
        for char, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
            message = message.replace(char, escape)
        line = (
            '{"id":0,"success":false,"error":{"kind":"start_failed","stage":"bootstrap","type":"%s",'
            '"module":"builtins","message":"%s","traceback":"","notes":[]}}\n'
        ) % (kind, message)
        os.write(channel[1], line.encode("ascii", "replace"))
        os._exit(1)

    if sys.path[:1] == [""]:
        del sys.path[0]  # the working directory: the host has had to start Python without -I
    channel = [private(0), private(1), private(2)]
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)

    chunks = []
    while True:
        chunk = os.read(channel[0], 1 << 18)
        if not chunk:
            os._exit(1)  # the host left before it said hello
        chunks.append(chunk)
        if b"\n" in chunk:
            break
    line, rest = b"".join(chunks).split(b"\n", 1)

    if sys.version_info < (3, 8):
        found = "%d.%d.%d" % sys.version_info[:3]
        fail("RuntimeError", "Python %s is too old: pypool needs Python 3.8 or later" % found)

    try:
        # The C scanner alone: importing json would import re, a third of the time a start may take.
        from _json import make_scanner

        class Context:
            strict = True
            object_hook = object_pairs_hook = None
            parse_float = parse_constant = float
            parse_int = int
            memo = {}

        def decode(text):
            return make_scanner(Context)(text, 0)[0]

    except ImportError:
        from json import loads as decode
    try:
        import zlib
        from binascii import a2b_base64

        hello = decode(line.decode("utf-8"))
        packed = zlib.decompress(a2b_base64(hello["args"]["runtime"])).decode("utf-8").split("\0")
        sources = dict(zip(packed[::2], packed[1::2]))
        finder_source = sources["_finder"]
    except Exception as error:
        fail(type(error).__name__, "the hello line cannot be read: %s" % (error,))

    # A pypool that a .pth file has imported already, or one from site-packages, is not this one.
    for name in list(sys.modules):
        if name == "pypool" or name.startswith("pypool."):
            del sys.modules[name]
    # Or it would be compiled again
    sys.modules["pypool._finder"] = finder = type(sys)("pypool._finder")
    # Its own, as all modules of the runtime have
    finder.__dict__["__builtins__"] = dict(vars(sys.modules["builtins"]))
    exec(compile(finder_source, "<pypool>/_finder.py", "exec"), finder.__dict__)
    finder.install(sources)

    import pypool._start

    pypool._start.main(hello, channel, rest)


if __name__ == "__main__":
    _pypool_boot()
