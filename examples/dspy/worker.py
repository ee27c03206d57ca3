"""A help desk written with DSPy: a signature with Predict, a ChainOfThought, and a module that puts them together.

An ordinary DSPy file, and an ordinary worker: each program has an id, and Go runs it by that id.
"""

import logging
from typing import Literal

import dspy
from dspy.utils import DummyLM
from pypool import program, setup

log = logging.getLogger("desk")

# What the offline language model says to a prompt that contains the words. It is DSPy's own stand-in for tests: it gets the
# same prompts as a real one, and its answers are parsed in the same way.
ANSWERS = {
    "charged twice": {
        "category": "billing",
        "urgent": "True",
        "reasoning": "The invoice lists one amount twice, so one of the payments has to go back.",
        "reply": "Sorry about that! The second payment is on its way back to you.",
    },
    "crashes": {
        "category": "bug",
        "urgent": "True",
        "reasoning": "It worked before the update; the old version still does.",
        "reply": "Please go back to 2.3 until we have mended 2.4.",
    },
    "dark mode": {
        "category": "wish",
        "urgent": "False",
        "reasoning": "Nothing is broken; others have asked for it too.",
        "reply": "We like it too, and have put it on the list.",
    },
}


@setup
def connect() -> None:
    """Choose the language model, once a worker."""
    dspy.configure_cache(enable_disk_cache=False)  # the default is a file that all workers would share
    lm = DummyLM(ANSWERS)
    dspy.configure(lm=lm)


class Triage(dspy.Signature):
    """Sort a customer's ticket."""

    ticket: str = dspy.InputField()
    category: Literal["billing", "bug", "wish"] = dspy.OutputField()
    urgent: bool = dspy.OutputField(desc="whether the customer cannot work, or has lost money")


class Answer(dspy.Signature):
    """Answer a customer's ticket in one friendly sentence."""

    ticket: str = dspy.InputField()
    category: str = dspy.InputField()
    reply: str = dspy.OutputField()


# A DSPy module is a program as it is.
program("triage")(dspy.Predict(Triage))
program("answer")(dspy.ChainOfThought(Answer))


# So is a module class: the one object of it is made after the setups.
@program("desk")
class Desk(dspy.Module):
    """The whole desk: sort the ticket, then answer it."""

    def __init__(self) -> None:
        super().__init__()
        self.triage = dspy.Predict(Triage)
        self.answer = dspy.ChainOfThought(Answer)

    def forward(self, ticket: str) -> dspy.Prediction:
        """Return category, urgent and reply."""
        sorted_ = self.triage(ticket=ticket)
        answer = self.answer(ticket=ticket, category=sorted_.category)
        log.info("a %s ticket is answered", sorted_.category)
        return dspy.Prediction(category=sorted_.category, urgent=sorted_.urgent, reply=answer.reply)
