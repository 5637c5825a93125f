"""Small evaluation data with hand-made vectors, for the tests of what the page shows of a task."""

import io

import numpy as np
from PIL import Image

from lit_tune.evaldata.dataset import EvalData
from lit_tune.evals import classification
from lit_tune.evals.scoring import Answers
from lit_tune.report.details import collect

EVIL = '<script>alert("x")</script> & </td>'


class Drawn:
    """Pictures of one colour each that count how often they are opened."""

    def __init__(self, count, side=20, noise=False):
        self.count, self.side, self.noise, self.opened = count, side, noise, []

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.opened.append(i)
        shape = (self.side, self.side, 3)
        pixels = np.random.default_rng(i).integers(0, 256, shape) if self.noise else np.full(shape, i * 37 % 256)
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        return file.getvalue()

    def describe(self, i):
        return f"picture {i}"


def classes(labels, names, **more):
    labels = np.array(labels)
    kind = "multilabel" if labels.ndim == 2 else "classification"
    return EvalData(kind, Drawn(len(labels), **more), "0" * 64, "here", classnames=tuple(names), labels=labels)


def collected(data, zimg, ztxt, seed=0):
    zimg, ztxt = np.asarray(zimg, np.float32), np.asarray(ztxt, np.float32)
    if data.kind == "retrieval":
        answers = Answers(ztxt)
    else:
        many = data.labels.ndim == 2
        found = classification.answers(zimg, ztxt, data.labels if many else None, None if many else data.labels)
        answers = Answers(ztxt, *found)
    return collect("toys", data, zimg, answers, data.pictures.__getitem__, seed)


AXES = np.eye(3)  # three classes, each its own axis
SEEN = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 1, 0], [0, 0.28, 0.96], [0, 0, 1], [0.8, 0, 0.6]])
TRUE = [0, 0, 1, 1, 2, 2]  # pictures 1, 3 and 5 go wrong, by 0.2, 0.68 and 0.2


def captioned(captions, **more):
    return EvalData("retrieval", Drawn(len(captions), **more), "0" * 64, "here", captions=tuple(captions))


THINGS = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
