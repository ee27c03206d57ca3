"""A model that a batch pays for: two layers of 1024 x 1024 in float32, whose weights are read anew for each run.

As a program it runs the function alone, in batches of 32: for each line with a number of seconds it answers how many inputs
it has done a second.
"""

import os
import sys
from time import perf_counter
from typing import List

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as README.md advises: the host needs a processor, too
import numpy as np  # noqa: E402

SIZE, BATCH = 1024, 32
random = np.random.default_rng(7)
inputs, first, second = (random.standard_normal((SIZE, SIZE), dtype=np.float32) for _ in range(3))


def classify(id: List[int]) -> List[int]:
    """The class of each input, named by its number."""
    hidden = np.maximum(inputs[id] @ first, 0)
    return (hidden @ second).argmax(axis=1).tolist()


if __name__ == "__main__":
    for line in sys.stdin:
        done, begun = 0, perf_counter()
        end = begun + float(line)
        while (now := perf_counter()) < end:
            classify([(done + i) % SIZE for i in range(BATCH)])
            done += BATCH
        print(done / (now - begun), flush=True)
