"""A scikit-learn model behind typed functions: trained once a worker, then asked from Go."""

from dataclasses import dataclass
from enum import Enum

import numpy as np
import sklearn
from pypool import command, setup
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


class Species(Enum):
    """The three kinds of iris in the data."""

    SETOSA = "setosa"
    VERSICOLOR = "versicolor"
    VIRGINICA = "virginica"


@dataclass
class Flower:
    """A flower's measures, in centimetres."""

    sepal_length: float
    sepal_width: float
    petal_length: float
    petal_width: float

    def row(self) -> list[float]:
        """Return the features in the order of the training data."""
        return [self.sepal_length, self.sepal_width, self.petal_length, self.petal_width]


@dataclass
class Prediction:
    """The likeliest species, and how likely each one is."""

    species: Species
    probability: float
    probabilities: dict[str, float]


@dataclass
class Model:
    """What is known of the model in a worker."""

    library: str
    trained_on: int
    accuracy: float  # on the flowers that were held back


@dataclass
class Projection:
    """Points in the plane of the largest variance, and the affine map that put them there: (point - mean) @ axes.T."""

    points: list[list[float]]
    mean: list[float]
    axes: list[list[float]]


SPECIES = list(Species)  # the data's classes 0, 1, 2

model: Pipeline
plane: PCA
about_model: Model


@setup
def train() -> None:
    """Train the model, before the worker is ready. The same data and seed give every worker the same model."""
    global model, plane, about_model
    features, classes = load_iris(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(features, classes, test_size=0.3, random_state=1, stratify=classes)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(train_x, train_y)
    plane = PCA(n_components=2).fit(train_x)
    about_model = Model("scikit-learn " + sklearn.__version__, len(train_x), model.score(test_x, test_y))


@command
def about() -> Model:
    """Describe the model."""
    return about_model


@command
def predict(flower: Flower) -> Prediction:
    """Name the species of one flower."""
    return predict_all([flower])[0]


@command
def predict_all(flowers: list[Flower]) -> list[Prediction]:
    """Name the species of many flowers: one call, one pass of numpy."""
    if not flowers:
        return []
    return [
        Prediction(SPECIES[row.argmax()], row.max(), {s.value: p for s, p in zip(SPECIES, row, strict=True)})
        for row in model.predict_proba(np.array([flower.row() for flower in flowers]))
    ]


@command
def project(points: list[list[float]]) -> Projection:
    """Project points of four dimensions to the plane: a matrix in, matrices out."""
    return Projection(plane.transform(np.asarray(points)), plane.mean_, plane.components_)
