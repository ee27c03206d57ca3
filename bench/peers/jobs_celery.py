"""Celery's application."""

import os

from celery import Celery

app = Celery("jobs_celery", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])


@app.task
def same(x):
    """Return the argument."""
    return x
