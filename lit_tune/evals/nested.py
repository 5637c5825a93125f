"""The same vectors asked otherwise: cut to their first numbers, or with other prompts before the texts.

Cutting comes after the text tower's LayerNorm and before L2, as Matryoshka text towers (nomic-embed-text-v1.5) are
meant to be cut. A picture tower that was not trained for it may lose more than the text tower does; so the text model's
own ceiling stands beside, at every width.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

from lit_tune.errors import ConfigError, explain
from lit_tune.evaldata.dataset import EvalData
from lit_tune.evals import scoring
from lit_tune.evals.catalog import Task
from lit_tune.evals.tiles import Products
from lit_tune.evals.zero_shot import unit

EmbedAs = Callable[[list[str], str], np.ndarray]  # (texts, prompt) -> (k, d) unit rows


def variants(
    task: Task, data: EvalData, zimg: Float[np.ndarray, "n d"], embed_text: EmbedAs, prompts: Mapping[str, str],
    dims: Sequence[int], products: Products | None = None,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """{"prompt NAME": figures, "dim N": figures}: the figures of `scoring.score` under another setting.

    Args:
        task, data, zimg: as for `scoring.score`.
        embed_text: asked once a prompt and list of texts by whoever remembers; widths cost nothing more.
        prompts: by name; "" is the main one, which the widths use.
        dims: widths, each below the whole.
        products: as for `scoring.score`.

    Raises:
        ConfigError: a width that is not below the whole.
    """
    check_dims(dims, zimg.shape[1])
    found = {f"prompt {name}": scoring.score(task, data, zimg, _with(embed_text, prompt), products).metrics
             for name, prompt in prompts.items() if name}  # fmt: skip
    for dim in dims:
        own = _with(embed_text, prompts[""])
        cut_text = partial(_cut_texts, own, dim)
        found[f"dim {dim}"] = scoring.score(task, data, cut(zimg, dim), cut_text, products).metrics
    return found


def check_dims(dims: Sequence[int], whole: int) -> None:
    """Refuse a width that is not below the whole; to be asked before anything is embedded. Raises ConfigError."""
    for dim in dims:
        if not 0 < dim < whole:
            raise ConfigError(explain("--dims", expected=f"widths from 1 to {whole - 1}", found=dim, do="leave it out"))


def cut(z: Float[np.ndarray, "n d"], dim: int) -> Float[np.ndarray, "n k"]:
    """The first `dim` numbers of each row, of length one again."""
    return unit(np.asarray(z[:, :dim], np.float32))


def _cut_texts(embed_text: scoring.EmbedText, dim: int, texts: list[str]) -> np.ndarray:
    """Vectors of texts, cut."""
    return cut(embed_text(texts), dim)


def _with(embed_text: EmbedAs, prompt: str) -> scoring.EmbedText:
    """The text tower with a prompt bound."""
    return lambda texts: embed_text(texts, prompt)
