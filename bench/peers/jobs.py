"""Job queues, and Ray Serve, as their own clients use them: argv[1] is which, argv[2] the folder of the scripts.

A line on stdin asks for one round, a line on stdout is its measurements. Each has two processes for the work, which is
to return the argument.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
from time import perf_counter


@contextlib.contextmanager
def celery():
    """Celery's prefork workers; Redis is the broker, and has the results."""
    import jobs_celery

    worker = [
        "celery",
        "-A",
        "jobs_celery",
        "worker",
        "--concurrency=2",
        "--loglevel=error",
        "--without-gossip",
        "--without-mingle",
    ]
    with running(worker):
        yield lambda x: jobs_celery.same.delay(x).get(timeout=60)


@contextlib.contextmanager
def dramatiq():
    """Dramatiq's processes with a thread each; Redis is the broker, and has the results."""
    import jobs_dramatiq

    with running(["dramatiq", "jobs_dramatiq", "--processes=2", "--threads=1"]):
        yield lambda x: jobs_dramatiq.same.send(x).get_result(block=True, timeout=60_000)


@contextlib.contextmanager
def ray():
    """Two replicas of Ray Serve, called by their handle: no HTTP, and nothing is kept."""
    import logging

    import ray
    from ray import serve

    @serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.5})
    class Same:
        async def __call__(self, x):
            return x

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
    try:
        handle = serve.run(Same.bind(), route_prefix=None)
        yield lambda x: handle.remote(x).result(timeout_s=60)
    finally:
        serve.shutdown()
        ray.shutdown()


@contextlib.contextmanager
def running(module):
    """Run a module until the block ends, with its children."""
    process = subprocess.Popen([sys.executable, "-m", *module], cwd=sys.argv[2], stdin=subprocess.DEVNULL, stdout=2, stderr=2)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def measure(call, callers, seconds):
    """Have threads make one call after another, a tenth of the time to warm up."""
    spans = [[] for _ in range(callers)]
    failed = []

    def loop(mine, end):
        try:
            begun = perf_counter()
            while True:  # at least once
                if call(7) != 7:
                    raise RuntimeError("another result")
                now = perf_counter()
                mine.append(now - begun)
                if now > end:
                    return
                begun = now
        except BaseException as error:
            failed.append(repr(error))

    for length in (seconds / 10, seconds):
        for mine in spans:
            mine.clear()
        before, begun = resource.getrusage(resource.RUSAGE_SELF), perf_counter()
        threads = [threading.Thread(target=loop, args=(mine, begun + length)) for mine in spans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took, after = perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    if failed:
        raise SystemExit(failed[0])
    every = sorted(span for mine in spans for span in mine)
    n = len(every)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"p50_us": every[n // 2] * 1e6, "p99_us": every[n * 99 // 100] * 1e6, "calls_per_s": n / took, "cpu_us": cpu / n * 1e6}


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print
    with {"celery": celery, "dramatiq": dramatiq, "ray": ray}[sys.argv[1]]() as call:
        call(7)  # it is up
        print("{}", file=answers, flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            print(json.dumps(measure(call, asked["callers"], asked["seconds"])), file=answers, flush=True)
