"""Tasks of mteb with a few texts and drawings of our own, so that nothing is fetched."""

from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskRetrieval, AbsTaskSTS, AbsTaskZeroShotClassification
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from PIL import Image, ImageDraw

COLORS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}
SHAPES = ("circle", "square", "bar", "frame", "cross", "dot")
NAMES = [f"a {color} {shape}" for color in COLORS for shape in SHAPES]
COLOR_OF = [i // len(SHAPES) for i in range(len(NAMES))]


def drawing(number: int) -> Image.Image:
    """One of 24 drawings, no two alike, of different sizes."""
    image = Image.new("RGB", (20 + number, 30 - number % 7), "white")
    draw = ImageDraw.Draw(image)
    box = (2 + number % 6, 3, 16, 17 - number % 6)
    fill = list(COLORS.values())[COLOR_OF[number]]
    draw.ellipse(box, fill) if number % 2 else draw.rectangle(box, fill)
    return image


DRAWINGS = [drawing(i) for i in range(len(NAMES))]


def page(name: str, kind: str, main_score: str, category: str) -> TaskMetadata:
    """What mteb has to know about a task."""
    both = "i" in category
    return TaskMetadata(
        name=name, description="drawings and their names", main_score=main_score, type=kind, eval_langs=["eng-Latn"],
        eval_splits=["test"], dataset={"path": "made/here", "revision": "1"}, category=category,
        modalities=["image", "text"] if both else ["text"],
    )


class Sts(AbsTaskSTS):
    """Pairs of names; the score is what colour and shape have in common."""

    metadata = page("OurSTS", "STS", "cosine_spearman", "t2t")
    min_score, max_score = 0, 7

    def load_data(self, *args: Any, **kwargs: Any) -> None:
        rng = np.random.default_rng(0)
        left, right = rng.integers(0, len(NAMES), (2, 40))
        noise = rng.integers(0, 2, 40)
        score = [int(s) for s in 4 * (left // 6 == right // 6) + 2 * (left % 6 == right % 6) + noise]
        self.dataset = DatasetDict(test=Dataset.from_dict({
            "sentence1": [NAMES[i] for i in left], "sentence2": [NAMES[j] for j in right], "score": score}))
        self.data_loaded = True


class _Retrieval(AbsTaskRetrieval):
    """Query i belongs to document i."""

    queries: dict[str, list[Any]]
    documents: dict[str, list[Any]]

    def load_data(self, *args: Any, **kwargs: Any) -> None:
        count = range(len(NAMES))
        self.dataset = {"default": {"test": RetrievalSplitData(
            queries=Dataset.from_dict({"id": [f"q{i}" for i in count], **self.queries}),
            corpus=Dataset.from_dict({"id": [f"d{i}" for i in count], **self.documents}),
            relevant_docs={f"q{i}": {f"d{i}": 1} for i in count}, top_ranked=None)}}
        self.data_loaded = True


class TextRetrieval(_Retrieval):
    """A shape's colour is asked for in other words."""

    metadata = page("OurTextRetrieval", "Retrieval", "ndcg_at_10", "t2t")
    queries = {"text": [f"{name.split()[2]} {name.split()[1]}" for name in NAMES]}
    documents = {"text": NAMES, "title": ["dot"] * len(NAMES)}


class TextToImage(_Retrieval):
    """A name finds its drawing."""

    metadata = page("OurT2IRetrieval", "Any2AnyRetrieval", "recall_at_5", "t2i")
    queries = {"text": NAMES}
    documents = {"image": DRAWINGS}


class ImageToText(_Retrieval):
    """A drawing finds its name."""

    metadata = page("OurI2TRetrieval", "Any2AnyRetrieval", "recall_at_5", "i2t")
    queries = {"image": DRAWINGS}
    documents = {"text": NAMES}


class BothToImage(_Retrieval):
    """A drawing with the name of the next one finds the next one."""

    metadata = page("OurIT2IRetrieval", "Any2AnyRetrieval", "recall_at_5", "it2i")
    queries = {"image": DRAWINGS, "text": NAMES[1:] + NAMES[:1]}
    documents = {"image": DRAWINGS[1:] + DRAWINGS[:1]}


class Colors(AbsTaskZeroShotClassification):
    """Which colour a drawing has."""

    metadata = page("OurZeroShot", "ZeroShotClassification", "accuracy", "i2t")
    input_column_name, label_column_name = "image", "label"

    def load_data(self, *args: Any, **kwargs: Any) -> None:
        self.dataset = DatasetDict(test=Dataset.from_dict({"image": DRAWINGS, "label": COLOR_OF}))
        self.data_loaded = True

    def get_candidate_labels(self) -> list[str]:
        return [f"a {color}" for color in COLORS]


TEXT_TASKS, IMAGE_TASKS = (Sts, TextRetrieval), (TextToImage, ImageToText, BothToImage, Colors)
