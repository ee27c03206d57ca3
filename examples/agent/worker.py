"""A support agent written with DSPy, whose tools are functions of the Go program that runs this worker.

`chat` is a generator: what the agent does goes to the reader while it does it.
"""

import queue
import threading
from typing import Any, Dict, Iterator, List

import dspy
from dspy.utils import DummyLM
from pypool import command, current_call, host, setup

# What the offline language model says, turn by turn. It is DSPy's own stand-in for tests: its answers are parsed as a real
# one's are.
TURNS: List[Dict[str, Any]] = [
    {"next_thought": "Which order is it?", "next_tool_name": "find_order", "next_tool_args": '{"customer": "ann"}'},
    {"next_thought": "It was paid twice.", "next_tool_name": "refund", "next_tool_args": '{"order": 7}'},
    {"next_thought": "That is all.", "next_tool_name": "finish", "next_tool_args": "{}"},
    {"reasoning": "One of the two payments went back.", "answer": "Sorry! The second payment is on its way back to you."},
]


@setup
def connect() -> None:
    """Keep DSPy's cache in memory: the default is a file that all workers would share."""
    dspy.configure_cache(enable_disk_cache=False)
    dspy.configure(lm=DummyLM([]))


@command
def chat(question: str) -> Iterator[Dict[str, str]]:
    """Yield what the agent does, and then its answer, word by word."""
    call = current_call()  # the agent runs in a thread, and takes it along
    events: queue.Queue[Any] = queue.Queue()

    def find_order(customer: str) -> str:
        """Find a customer's last order."""
        events.put({"tool": "find_order"})
        return str(call.host.find_order(customer=customer))

    def refund(order: int) -> str:
        """Pay an order back that was paid twice."""
        events.put({"tool": "refund"})
        return str(call.host.refund(order))

    def work() -> None:
        try:
            with dspy.context(lm=DummyLM(list(TURNS))):
                agent = dspy.ReAct("question -> answer", tools=[find_order, refund])
                events.put(str(agent(question=question).answer))
        except BaseException as error:  # also the LookupError of a call that is over
            events.put(error)

    threading.Thread(target=work, daemon=True).start()
    while True:
        event = events.get()
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, str):
            break
        yield event
    for word in event.split():
        yield {"word": word}


@command
def opening() -> str:
    """Say which agent this is: called from the handler itself."""
    return f"This is {host.name()}'s agent."
