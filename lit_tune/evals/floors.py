"""What a score is worth: the same test answered without learning, and by text that knows the answer.

Each floor is a stand-in for the pictures' vectors, scored like the model's own but with tied answers in random order
(expected recall): counting ties against a floor would flatter the model.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int, Integer, UInt8
from PIL import Image

from lit_tune.errors import explain
from lit_tune.evals.retrieval import Found, find
from lit_tune.evals.zero_shot import unit

SIDE = 8  # pixels a side: enough for colour and rough shape, nothing else
UNSEEN = -1e6  # score of a caption that no training picture carries: below every distance
ROWS = 256  # pictures compared with the training pictures at a time


def thumbnails(pictures: Iterable[UInt8[np.ndarray, "h w 3"]]) -> Float[np.ndarray, "n 192"]:
    """(n, 192) float32 in [0, 1]: each picture squashed to 8x8 pixels, its channels averaged over their areas."""
    small = [np.asarray(Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BOX)).reshape(-1) for p in pictures]
    return np.asarray(small, np.float32).reshape(len(small), SIDE * SIDE * 3) / 255


def pixel_vectors(
    thumbs: Float[np.ndarray, "n p"],
    train_thumbs: Float[np.ndarray, "t p"],
    train_ztxt: Float[np.ndarray, "t d"],
    neighbours: int,
) -> Float[np.ndarray, "n d"]:
    """(n, d) unit rows: the caption vectors of the training pictures with the nearest thumbnails, averaged.

    The r-th nearest weighs 1/r. On the shipped pairs this is as good as the nearest one alone where the same things
    were drawn for training (R@1 35.6 against 36.0 %, R@5 46.7 against 41.2) and at least as good as a plain mean of 20
    where they were not (R@5 22.5 against 21.5), so one floor serves both.

    Args:
        thumbs: (n, p) thumbnails of the test pictures.
        train_thumbs: (t, p) thumbnails of the training pictures.
        train_ztxt: (t, d) unit rows, the caption vectors of the training pictures.
        neighbours: how many are averaged.

    Raises:
        ValueError: fewer training pictures than neighbours, or not one caption vector each.
    """
    if not neighbours <= len(train_thumbs) == len(train_ztxt):
        expected = f"{neighbours} or more training thumbnails and one vector each"
        found = f"{len(train_thumbs)} and {len(train_ztxt)}"
        raise ValueError(explain("pixel floor", expected=expected, found=found, do="pass the training pictures"))
    weights = 1 / np.arange(1, neighbours + 1, dtype=np.float32)
    sums = [
        np.einsum(
            "k,bkd->bd", weights, train_ztxt[_nearest_pixels(thumbs[start : start + ROWS], train_thumbs, neighbours)]
        )
        for start in range(0, len(thumbs), ROWS)
    ]
    return unit(np.concatenate(sums).astype(np.float32))


def _nearest_pixels(
    thumbs: Float[np.ndarray, "b p"], train_thumbs: Float[np.ndarray, "t p"], neighbours: int
) -> Int[np.ndarray, "b k"]:
    """The training pictures at the smallest Euclidean distance, nearest first."""
    # |a - b|^2 without |a|^2, which is the same for all candidates of a picture
    distance = (train_thumbs**2).sum(1) - 2 * thumbs @ train_thumbs.T  # (b, t)
    few = np.argpartition(distance, neighbours - 1, axis=1)[
        :, :neighbours
    ]  # in no order: a full sort costs 10 times more
    return np.take_along_axis(few, np.argsort(np.take_along_axis(distance, few, 1), 1), 1)


def pixels(
    vectors: Float[np.ndarray, "n d"],
    ztxt: Float[np.ndarray, "m d"],
    owner: Integer[np.ndarray, " m"],
    caption_group: Integer[np.ndarray, " m"],
) -> tuple[Found, Found]:
    """(text to image, image to text) of the picture vectors that `pixel_vectors` guessed; arguments as for `find`."""
    return find(vectors, ztxt, owner, caption_group)


def nearest_scores(
    thumbs: Float[np.ndarray, "n p"],
    train_thumbs: Float[np.ndarray, "t p"],
    train_captions: Sequence[str],
    captions: Sequence[str],
) -> Float[np.ndarray, "n g"]:
    """(n, g) float32 score of each of g captions for each picture: minus the distance to the nearest thumbnail that
    carries it in training, UNSEEN where none does.

    The stronger use of pixels where the same things were drawn for training: whole answers in the order of likeness,
    which no single vector a picture can hold (on the shipped unseen_set R@5 54.9 % against 46.7).

    Args:
        thumbs: (n, p) thumbnails of the test pictures.
        train_thumbs: (t, p) thumbnails of the training pictures.
        train_captions: t captions.
        captions: g distinct captions.
    """
    number = {caption: i for i, caption in enumerate(captions)}
    columns = np.array([number.get(caption, len(captions)) for caption in train_captions])  # the last one: none of them
    scores = np.full((len(thumbs), len(captions) + 1), UNSEEN, np.float32)
    for row, thumb in enumerate(thumbs):
        np.maximum.at(scores[row], columns, -((train_thumbs - thumb) ** 2).sum(1))
    return scores[:, :-1]


def by_scores(
    scores: Float[np.ndarray, "n g"], owner: Integer[np.ndarray, " m"], caption_group: Integer[np.ndarray, " m"]
) -> tuple[Found, Found]:
    """(text to image, image to text) of scores by caption group; arguments as for `find`.

    Args:
        scores: (n, g), finite; column g is the g-th smallest value of `caption_group`.
    """
    groups = np.unique(caption_group, return_inverse=True)[1].reshape(-1)
    onehot = np.eye(scores.shape[1], dtype=np.float32)  # the product with a row of it is the score itself
    return find(scores, onehot[groups], owner, caption_group)


def group_oracle(
    picture_group: Integer[np.ndarray, " n"], owner: Integer[np.ndarray, " m"], caption_group: Integer[np.ndarray, " m"]
) -> tuple[Found, Found]:
    """(text to image, image to text) of someone who knows each picture's group (animals, flags...) and no more.

    All answers of the group are tied, so `.expected(k)` is the exact recall of guessing within the group.

    Args:
        picture_group: (n,) any integers, equal within a group.
        owner: (m,) as in `find`.
        caption_group: (m,) as in `find`.
    """
    index = np.unique(picture_group, return_inverse=True)[1].reshape(-1)
    onehot = np.eye(index.max() + 1, dtype=np.float32)[index]  # (n, groups): score 1 within a group, 0 outside
    return find(onehot, onehot[owner], owner, caption_group)


def text_ceiling(
    other_wording: Float[np.ndarray, "n d"],
    ztxt: Float[np.ndarray, "m d"],
    owner: Integer[np.ndarray, " m"],
    caption_group: Integer[np.ndarray, " m"],
) -> tuple[Found, Found]:
    """(text to image, image to text) if each picture had the vector of another wording of its caption.

    A picture tower that learned the words exactly would still confuse what the frozen text tower confuses.

    Args:
        other_wording: (n, d) unit rows: a text about each picture that is none of the captions in `ztxt`.
        ztxt: (m, d) and the rest as in `find`.
    """
    return find(other_wording, ztxt, owner, caption_group)
