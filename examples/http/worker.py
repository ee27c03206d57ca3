"""What the service has done in Python: summaries by word frequency. The standard library is enough here."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import List

from pypool import command

COMMON = frozenset("a an and are as at be but by for from has in is it its of on or that the this to was were will with".split())


@dataclass
class Summary:
    """The sentences that say most, in their order, and the length of the whole."""

    sentences: List[str]
    words: int


@command
def summarize(text: str, sentences: int = 2) -> Summary:
    """Pick the sentences whose words are the most frequent ones of the text. A text without words raises ValueError."""
    words = words_of(text)
    if not words:
        raise ValueError("the text has no words")
    weight = Counter(word for word in words if word not in COMMON)
    parts = [part.strip() for part in re.split(r"(?<=[.!?])\s+", text) if words_of(part)]

    def score(index: int) -> float:
        found = words_of(parts[index])
        return sum(weight[word] for word in found) / len(found)

    best = sorted(range(len(parts)), key=score, reverse=True)[: max(sentences, 1)]
    return Summary([parts[index] for index in sorted(best)], len(words))


def words_of(text: str) -> List[str]:
    """Return the words, in lower case."""
    return re.findall(r"\w+", text.lower())
