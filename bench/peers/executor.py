"""ProcessPoolExecutor, called from Python: a line on stdin asks for one round, a line on stdout is its measurements."""

import json
import resource
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter


def same(x):
    """Return the item."""
    return x


def submit(executor, callers, seconds, text):
    """Have some threads submit one call after another; return the times of all calls."""
    spans = [[] for _ in range(callers)]
    end = perf_counter() + seconds

    def loop(mine):
        begun = perf_counter()
        while True:  # at least once
            executor.submit(same, {"text": text}).result()
            now = perf_counter()
            mine.append(now - begun)
            if now > end:
                return
            begun = now

    threads = [threading.Thread(target=loop, args=(mine,)) for mine in spans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [span for mine in spans for span in mine]


def run(executor, asked):
    """Measure one round."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF), perf_counter()
    spans, items = [], 0
    if asked["what"] == "submit":
        spans = sorted(submit(executor, asked["callers"], asked["seconds"], asked["text"]))
        items = len(spans)
    else:
        while not items or perf_counter() - begun < asked["seconds"]:
            if sum(executor.map(same, range(asked["items"]), chunksize=64)) != asked["items"] * (asked["items"] - 1) // 2:
                raise RuntimeError("wrong results")
            items += asked["items"]
    took, after = perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answer = {"calls_per_s": items / took, "cpu_us": cpu / items * 1e6}
    if spans:
        answer["p50_us"] = spans[len(spans) // 2] * 1e6
        answer["p99_us"] = spans[len(spans) * 99 // 100] * 1e6
    return answer


if __name__ == "__main__":
    with ProcessPoolExecutor(max_workers=int(sys.argv[1])) as executor:
        list(executor.map(same, range(100)))  # the processes are up
        for line in sys.stdin:
            print(json.dumps(run(executor, json.loads(line))), flush=True)
