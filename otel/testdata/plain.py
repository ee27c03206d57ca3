"""A worker without OpenTelemetry."""

from pypool import command


@command
def greet(name: str) -> str:
    return "Hello, " + name
