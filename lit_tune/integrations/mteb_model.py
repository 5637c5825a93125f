"""A model of ours as mteb wants one, and mteb's page about it; `mteb.py` runs tasks on it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Float
from mteb.abstasks.task_metadata import TaskMetadata, TaskType
from mteb.get_tasks import TASK_LIST
from mteb.models.abs_encoder import AbsEncoder, get_prompt
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from lit_tune import tower, tree
from lit_tune.errors import ConfigError, DataError, explain
from lit_tune.model import Model

Prompt = str | Mapping[str, str] | None
PICTURES = 256  # of a task that are held before they are embedded; some of mteb's loaders give one at a time
NAME = "model"
# The prompts that mteb's registry runs nomic-embed-text with (models/model_implementations/nomic_models.py), which
# cites Nomic's own evaluation (contrastors, eval_mteb.py at 5f7b461). Image vectors were aligned to search_query only.
NOMIC_PROMPTS = {
    **dict.fromkeys(("Classification", "MultilabelClassification", "PairClassification", "Reranking", "STS",
                     "Summarization"), "classification: "),
    "Clustering": "clustering: ",
    "query": "search_query: ",
    "document": "search_document: ",
}  # fmt: skip


class MtebModel(AbsEncoder):
    """A model of ours as mteb wants one.

    Args:
        model: from `lit_tune.load`; one of its two towers is enough for tasks of that modality.
        prompt: put before every text. None: the text tower's own prefix; "": nothing; a mapping: by task name, task
            type or "query" and "document", looked up as mteb does it for its own models ("TASK-query" goes before
            "TASK", that before the task's type, that before "query"), the tower's own prefix where no key applies.
        name: "organization/model", as mteb's result files name it; a bare name gets "lit_tune/".

    Raises:
        ConfigError: a key of the mapping is none of those.
    """

    def __init__(self, model: Model, prompt: Prompt = None, name: str = NAME) -> None:
        self.model = model
        self.prompt = _checked(prompt)
        self.mteb_model_meta = model_meta(model, prompt, name)

    def encode(
        self, inputs: Any, *, task_metadata: TaskMetadata, hf_split: str = "", hf_subset: str = "",
        prompt_type: PromptType | None = None, **kwargs: Any,
    ) -> Float[np.ndarray, "n d"]:  # fmt: skip
        """float32 unit vectors of texts or of pictures; where rows have both, the sum of the two.

        The sum is left as it is, as mteb's own wrappers of two-tower models leave it (clip_models.py,
        nomic_models_vision.py); its length plays no part in a cosine.

        Args:
            inputs: mteb's loader; batches are dicts of lists, "text" and "image" (PIL pictures) among them.
            task_metadata, prompt_type: decide the prompt where it is a mapping.

        Raises:
            ConfigError: the model has no tower for a column, or the rows have neither text nor picture.
            DataError: a picture is missing or too large.
        """
        columns = [name for name in ("text", "image") if name in inputs.dataset.features]
        if not columns:
            raise ConfigError(explain(f"mteb task {task_metadata.name}", expected="texts or pictures",
                                      found=", ".join(inputs.dataset.features), do="leave the task out"))
        texts: list[str] = []
        held: list[Any] = []
        parts: list[np.ndarray] = []
        for batch in inputs:
            texts += batch["text"] if "text" in columns else []
            held += batch["image"] if "image" in columns else []
            if len(held) >= PICTURES:
                parts.append(self._pictures(held, task_metadata.name))
                held = []
        vectors = []
        if "image" in columns:
            vectors.append(np.concatenate([*parts, self._pictures(held, task_metadata.name)]))
        if "text" in columns:
            vectors.insert(0, self.model.embed_texts(texts, self.prompt_of(task_metadata, prompt_type)))
        return sum(vectors[1:], vectors[0])

    def prompt_of(self, task_metadata: TaskMetadata, prompt_type: PromptType | None = None) -> str | None:
        """What goes before a task's texts; None: the tower's own prefix."""
        if self.prompt is None or isinstance(self.prompt, str):
            return self.prompt
        return get_prompt(dict(self.prompt), task_metadata, prompt_type)

    def _pictures(self, images: Sequence[Any], task: str) -> Float[np.ndarray, "n d"]:
        """Vectors of a task's pictures, by the model's own preprocessing."""
        if any(image is None for image in images):
            raise DataError(explain(f"mteb task {task}", expected="a picture in every row", found="a row without",
                                    do="leave the task out"))
        try:
            return self.model.embed_images(images)
        except DataError as error:
            raise DataError(f"mteb task {task}: {error}") from error


def load(folder: str | Path, prompt: Prompt = None, step: int | None = None) -> MtebModel:
    """A run, import or export as mteb's model, named after its folder.

    Args:
        folder, step: as `lit_tune.load`.
        prompt: as `MtebModel`.
    """
    path = Path(folder).expanduser().resolve()
    return MtebModel(tower.load(path, step), prompt, path.name)


def model_meta(model: Model, prompt: Prompt = None, name: str = NAME) -> ModelMeta:
    """mteb's page about a model; what cannot be known from its folder (licence, release, training data) is None.

    `revision` is made of digests of each tower's weights, preprocessing, tokenizer, prefix and length, and mteb keeps
    figures by name, revision and `experiment_kwargs`.
    """
    towers = ([model.vision.tower] if model.has_image else []) + ([model.text.tower] if model.has_text else [])
    count = sum(tree.count(one.abstract()) for one in towers)
    own = model.prompt if prompt is None else prompt
    return ModelMeta(
        loader=None, name=name if "/" in name else f"lit_tune/{name}", revision=revision(model),
        experiment_kwargs=None if prompt is None else {"prompt": _name_of(prompt)},
        modalities=(["image"] if model.has_image else []) + (["text"] if model.has_text else []),
        embed_dim=model.dim, max_tokens=model.text.tokenizer.max_length if model.has_text else None,
        n_parameters=count, memory_usage_mb=count * 4 / 2**20, framework=["JAX"],  # float32
        similarity_fn_name=ScoringFunction.COSINE, use_instructions=model.has_text and bool(own),
        open_weights=None, license=None, languages=None, release_date=None, public_training_code=None,
        public_training_data=None, training_datasets=None,
    )  # fmt: skip


def digests(model: Model) -> dict[str, str]:
    """{"vision_sha256", "text_sha256"} of the weights of the towers that there are."""
    found = {}
    if model.has_image:
        vision = model.vision
        own = vision.params or None  # an ONNX file has none
        found["vision_sha256"] = tree.digest(own) if own else vision.description["weights"]["sha256"]
    if model.has_text:
        found["text_sha256"] = model.text.description["text"]["weights_sha256"]
    return found


def revision(model: Model) -> str:
    """ "image-<12 hex>-text-<12 hex>": changes with anything that changes a vector of that tower."""
    sha, parts = digests(model), []
    if model.has_image:
        page = {key: model.vision.description[key] for key in ("family", "spec", "preprocess")}
        parts.append(f"image-{_short(page | {'sha256': sha['vision_sha256']})}")
    if model.has_text:
        parts.append(f"text-{_short(model.text.fingerprint | {'layout': model.text.layout})}")
    return "-".join(parts)


def _checked(prompt: Prompt) -> Prompt:
    """The prompt, its keys known to mteb."""
    if prompt is None or isinstance(prompt, str):
        return prompt
    roles = tuple(kind.value for kind in PromptType)
    known = {*roles, *get_args(TaskType), *(task.metadata.name for task in TASK_LIST)}
    for key in prompt:
        # names of tasks have hyphens too
        bare = key.rsplit("-", 1)[0] if key.endswith(tuple(f"-{role}" for role in roles)) else key
        if bare not in known:
            near = ", ".join(get_close_matches(bare, known, n=3))
            raise ConfigError(explain("prompt", expected=f"{', '.join(roles)}, an mteb task or its type as key",
                                      found=repr(key), do=f"did you mean {near}?" if near else "correct it"))
    return dict(prompt)


def _name_of(prompt: str | Mapping[str, str]) -> str:
    """A short name that tells prompts apart in mteb's folders."""
    kind = (prompt.strip(" :") or "none") if isinstance(prompt, str) else "by_task"
    return f"{''.join(c if c.isalnum() else '_' for c in kind)[:40]}-{_short(prompt)}"


def sha_of(page: Any) -> str:
    """sha256 (hex) of JSON values."""
    return hashlib.sha256(json.dumps(page, sort_keys=True).encode()).hexdigest()


def _short(page: Any) -> str:
    """The first 12 hex digits of `sha_of`."""
    return sha_of(page)[:12]
