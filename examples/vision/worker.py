"""A small vision model behind a batch command: which shape is in a picture. NumPy alone, trained in a second."""

import io
import math
import time
from dataclasses import dataclass
from typing import Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pypool import command, setup

SHAPES = ["circle", "diamond", "square", "triangle"]
SIDE = 64  # pixels
PATCH, DIRECTIONS = 5, 16


@dataclass
class Answer:
    """The likeliest shape, and by how much it is ahead of the next."""

    shape: str
    margin: float


filters: NDArray[np.float32]  # of the convolution: (PATCH * PATCH, DIRECTIONS)
hidden: NDArray[np.float32]
output: NDArray[np.float32]


@setup
def train() -> None:
    """Make the model. The same seed gives every worker the same one."""
    global filters, hidden, output
    y, x = np.mgrid[:PATCH, :PATCH] - (PATCH - 1) / 2
    bell = np.exp(-(x**2 + y**2) / 3)
    angles = [2 * math.pi * k / DIRECTIONS for k in range(DIRECTIONS)]
    slopes = np.stack([bell * (x * math.cos(a) + y * math.sin(a)) for a in angles], axis=-1)
    filters = slopes.reshape(-1, DIRECTIONS).astype(np.float32)
    random = np.random.default_rng(7)
    labels = np.arange(400) % len(SHAPES)
    maps = convolve(np.stack([draw(random, SHAPES[label]) for label in labels]))
    hidden = random.normal(size=(DIRECTIONS, 128)).astype(np.float32)
    units = np.maximum(maps @ hidden, 0).astype(np.float64)
    wanted = np.eye(len(SHAPES))[labels]
    output = np.linalg.solve(units.T @ units + 1e-4 * np.eye(units.shape[1]), units.T @ wanted).astype(np.float32)


def draw(random: np.random.Generator, shape: str) -> NDArray[np.uint8]:
    """Draw a shape for the training: somewhere, in some size and colours, with noise."""
    r = random.uniform(10, 22)
    cx, cy = random.uniform(r + 2, SIDE - r - 2, size=2)
    back, ink = (tuple(int(c) for c in random.uniform(low, low + 90, size=3)) for low in random.permutation([10, 150]))
    image = Image.new("RGB", (SIDE, SIDE), back)
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), ink)
    elif shape == "square":
        pen.rectangle((cx - r, cy - r, cx + r, cy + r), ink)
    elif shape == "triangle":
        pen.polygon([(cx, cy - r), (cx - r, cy + r), (cx + r, cy + r)], ink)
    else:
        pen.polygon([(cx, cy - r), (cx + r, cy), (cx, cy + r), (cx - r, cy)], ink)
    noisy = np.asarray(image) + random.normal(scale=6, size=(SIDE, SIDE, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def convolve(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Weigh the edges of each direction: (n, SIDE, SIDE, 3) to (n, DIRECTIONS)."""
    grey = images[:, ::2, ::2].reshape(-1, 3) @ np.full(3, 1 / (3 * 255), dtype=np.float32)
    grey = grey.reshape(len(images), SIDE // 2, SIDE // 2)
    patches = np.lib.stride_tricks.sliding_window_view(grey, (PATCH, PATCH), axis=(1, 2))
    maps = np.maximum(patches.reshape(len(images), -1, PATCH * PATCH) @ filters, 0)
    weights: NDArray[np.float32] = np.square(np.square(maps)).mean(axis=1)  # sharper in direction than maps
    weights /= weights.sum(axis=1, keepdims=True) + 1e-9  # a picture of one colour has no edges
    return weights


def model(images: NDArray[np.uint8]) -> list[Answer]:
    """Run the model on a batch: (n, SIDE, SIDE, 3)."""
    scores = np.maximum(convolve(images) @ hidden, 0) @ output
    best = np.sort(scores, axis=1)
    return [Answer(SHAPES[k], float(margin)) for k, margin in zip(scores.argmax(axis=1), best[:, -1] - best[:, -2], strict=True)]


@command(max_batch_size=32)
def classify(image: list[NDArray[np.uint8]]) -> list[object]:
    """Name the shapes in the pictures of the calls that wait. A picture that does not fit fails its own call alone."""
    return answers([checked(one) for one in image])


@command(max_batch_size=32)
def classify_file(file: list[bytes]) -> list[object]:
    """Do the same with files: PNG or JPEG."""
    return answers([opened(one) for one in file])


def answers(images: list[Union[NDArray[np.uint8], Exception]]) -> list[object]:
    """Run the model on the pictures, and leave what is none where it is."""
    good = [image for image in images if not isinstance(image, Exception)]
    found = iter(model(np.stack(good)) if good else [])
    return [image if isinstance(image, Exception) else next(found) for image in images]


def checked(image: NDArray[np.uint8]) -> Union[NDArray[np.uint8], Exception]:
    if image.shape == (SIDE, SIDE, 3):
        return image
    return ValueError(f"a picture is {SIDE} × {SIDE} × 3, this is {' × '.join(map(str, image.shape))}")


def opened(file: bytes) -> Union[NDArray[np.uint8], Exception]:
    try:
        return np.asarray(Image.open(io.BytesIO(file), formats=["PNG", "JPEG"]).convert("RGB").resize((SIDE, SIDE)))
    except Exception as error:  # also a SyntaxError: what Pillow raises of a broken file has no class of its own
        return ValueError(f"this is no picture: {error}")


@command
def alone(image: NDArray[np.uint8], batch: int, seconds: float) -> float:
    """Measure what the pool's figures are to be compared with: pictures a second, by the function itself."""
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        classify([image] * batch)
        done += batch
    return done / (time.perf_counter() - begun)
