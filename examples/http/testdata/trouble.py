"""A worker whose text is an order: what the service must survive."""

import os
import time
from typing import Any, Dict

from pypool import command, current_call


@command
def summarize(text: str, sentences: int = 2) -> Dict[str, Any]:
    """Sleep, raise or die, as the text says."""
    order, _, what = text.partition(" ")
    if order == "sleep":
        time.sleep(float(what))
    elif order == "raise":
        raise {"ValueError": ValueError, "KeyError": KeyError}[what]("it is " + what)
    elif order == "exit":
        os._exit(int(what))
    elif order == "nan":
        return {"sentences": [], "words": float("nan")}
    return {"sentences": [text, current_call().session_id or ""], "words": sentences}
