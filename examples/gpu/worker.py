"""resnet50 on a GPU behind a batch command. Its weights are random: how fast it is does not depend on them."""

import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pypool import command, setup

DEVICE = sys.argv[1]  # cuda, or cpu to try the program without one
BATCH, SIDE = 32, 224


class NoGPU(Exception):
    """There is nothing to run on."""


@dataclass
class Answer:
    """The likeliest of 1000 classes, and how likely it is."""

    label: int
    score: float


model: torch.nn.Module
staging: torch.Tensor  # where a batch is put together; from pinned memory the GPU fetches it by itself


@setup
def load() -> None:
    """Make the CUDA context and the model, and run it once: the first calls pay for none of that."""
    global model, staging
    gpu = DEVICE == "cuda"
    if gpu and not torch.cuda.is_available():
        raise NoGPU(f"torch {torch.__version__} finds no NVIDIA GPU on this machine; examples/vision is the same on a CPU")
    from torchvision.models import resnet50

    torch.manual_seed(1)
    # Without zero_init_residual the random layers' outputs grow beyond what half precision can hold.
    made = resnet50(weights=None, zero_init_residual=True).eval()
    model = made.to(DEVICE, torch.half if gpu else torch.float, memory_format=torch.channels_last)
    staging = torch.empty((BATCH, SIDE, SIDE, 3), dtype=torch.uint8, pin_memory=gpu)
    for size in (1, BATCH):
        infer([np.zeros((SIDE, SIDE, 3), np.uint8)] * size)


def infer(images: list[NDArray[np.uint8]]) -> list[Answer]:
    """Run the model on a batch, and wait for it."""
    np.stack(images, out=staging.numpy()[: len(images)])
    with torch.inference_mode():
        pixels = staging[: len(images)].to(DEVICE, non_blocking=True)
        batch = pixels.permute(0, 3, 1, 2).to(next(model.parameters()).dtype)
        scores, labels = model((batch / 255 - 0.45) / 0.225).softmax(dim=1).max(dim=1)
        return [Answer(label, score) for label, score in zip(labels.tolist(), scores.tolist())]  # noqa: B905


@command(max_batch_size=BATCH)
def classify(image: list[NDArray[np.uint8]]) -> list[object]:
    """Classify the pictures of the calls that wait."""
    shape = (SIDE, SIDE, 3)
    good = [one for one in image if one.shape == shape]
    found = iter(infer(good) if good else [])
    refused = "a picture has the shape %s, this has %s"
    return [next(found) if one.shape == shape else ValueError(refused % (shape, one.shape)) for one in image]


@command
def about() -> str:
    """Say what the model runs on."""
    return f"torch {torch.__version__} on {torch.cuda.get_device_name() if DEVICE == 'cuda' else 'the CPU'}"


@command
def alone(batch: int, seconds: float) -> float:
    """Measure what the pool's figures are to be compared with: pictures a second, by the function itself."""
    random = np.random.default_rng(1)
    images = [random.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for _ in range(batch)]
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        classify(images)
        done += batch
    return done / (time.perf_counter() - begun)
