"""A worker with OpenTelemetry's own SDK: its spans are kept, and told when asked for."""

import asyncio
import json
import logging

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pypool import command, host, setup

exporter = InMemorySpanExporter()
tracer = trace.get_tracer("worker")


@setup
def provide():
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


@command
def greet(name):
    with tracer.start_as_current_span("work"):
        logging.getLogger("greeter").warning("greeting %s", name)
        return "Hello, " + host.lookup(id=name)


@command
async def greet_later(name):
    with tracer.start_as_current_span("work"):
        await asyncio.sleep(0)
        return "Hello, " + await host.aio.lookup(id=name)


@command(concurrency=8)
async def greet_shared(name):
    with tracer.start_as_current_span("work"):
        await asyncio.sleep(0.01)
        return "Hello, " + await host.aio.lookup(id=name)


@command
def greet_all(names):
    for name in names:
        with tracer.start_as_current_span("work"):
            greeting = "Hello, " + host.lookup(id=name)
        yield greeting


@command(max_batch_size=4, max_wait_ms=10000)
def greet_many(name):
    with tracer.start_as_current_span("work"):
        return ["Hello, " + one for one in name]


@command
def bad():
    raise ValueError("it is bad")


@command
def spans():
    done = [json.loads(span.to_json()) for span in exporter.get_finished_spans()]
    exporter.clear()
    return done
