"""The model card of an export: README.md with the fields that the hub reads, written without asking the hub.

Only what is known is said: a licence, a score or a data set that nobody stated is "not stated", never guessed.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard import metadata_load

from lit_tune import evals
from lit_tune.description import ALIGNED
from lit_tune.evals import tables
from lit_tune.exports.parts import Source
from lit_tune.exports.preprocessing import differences
from lit_tune.text import weights
from lit_tune.text.encode import TextEncoder

FILE = "README.md"
NOT_STATED = "not stated"
LIBRARIES = {"sentence-transformers": "modules.json", "open_clip": "open_clip_config.json"}  # by the file they look for
RESIZE = {
    "shortest": "the shorter side is brought to the size, then the centre is cut out",
    "squash": "both sides are brought to the size at once, shapes are not kept",
}
POLICY = {
    "clean": "EXIF orientation applied, transparency laid on white, 16-bit grey scaled, before resizing",
    "reference": "EXIF ignored, transparency dropped, 16-bit grey saturates, after resizing (as open_clip and timm do)",
}


def text(source: Source, proof: Mapping[str, Any], folder: Path) -> str:
    """The whole README.md.

    Args:
        proof: what proof.json will hold.
        folder: the export, its other files written.
    """
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    loading = tools(proof["checks"], files)
    parts = [
        f"# {source.name}",
        f"{_what(source)} Written by lit_tune; `proof.json` says who compared which file with what.",
        "## Use", *(f"{name}:\n\n```python\n{code}\n```" for name, code in loading),
        f"`DIR` is this folder.{_use_outside(source)}",
        "## Tower" if source.text is None else "## Towers", _bullets(_towers(source, proof)),
        "## Pictures" if source.text is None else "## Pictures and texts", _bullets(_inputs(source)),
        "## Scores", _scores(source.facts),
        "## Origin", _bullets(_origin(source, proof)),
        "## Checked", _bullets(_checked(proof)),
        "## Limits", _bullets(_limits(source, proof)),
    ]
    return f"---\n{_front_matter(source, files).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def tools(checks: Sequence[Mapping[str, Any]], files: Iterable[str], folder: str = "DIR") -> list[tuple[str, str]]:
    """(tool, Python lines) of everything that loads an export, by the files that are in it."""
    files = set(files)
    texts = "; model.embed_texts(['a red apple'])" if any(one["kind"] == "text" for one in checks) else ""
    found = [("lit_tune", f"import lit_tune\nmodel = lit_tune.load('{folder}')\n"
                          f"model.embed_images(['picture.jpg']){texts}")]
    if LIBRARIES["sentence-transformers"] in files:
        found.append(("sentence-transformers", "from sentence_transformers import SentenceTransformer\n"
                      f"model = SentenceTransformer('{folder}')\nmodel.encode('a red apple')  # or a PIL picture"))
    timms = [PurePosixPath(one["file"]).parent for one in checks if (one["kind"], one["layout"]) == ("vision", "timm")]
    for parent in timms:
        where = (PurePosixPath(folder) / parent).as_posix()
        found.append(("timm (pictures)", "import timm\n"
                      f"model = timm.create_model('local-dir:{where}', pretrained=True)"))
        found.append(("transformers (pictures)", "from transformers import AutoModel\n"
                      f"model = AutoModel.from_pretrained('{where}')  # pooler_output, before any projection"))
    if LIBRARIES["open_clip"] in files:
        found.append(("open_clip", "from lit_tune.integrations.open_clip import load\n"
                      f"model, transform, tokenizer = load('{folder}')"))
    if "onnx/model.onnx" in files:
        found.append(("onnxruntime", "import onnxruntime\n"
                      f"session = onnxruntime.InferenceSession('{folder}/onnx/model.onnx')  # pixel_values"))
    return found


def commands(out: Path, proof: Mapping[str, Any]) -> list[str]:
    """What to type next, once the export is written."""
    own, *others = tools(proof["checks"], proof["files"], str(out))
    lines = [f"lit-tune embed --model={out} --images=PICTURES --out=pictures.npz"]
    return lines + [f'python -c "{"; ".join(code.split("  #")[0].splitlines())}"' for _, code in others[:1]]


def whose_space(proof: Mapping[str, Any]) -> str:
    """In a few words, whose text vectors an image tower alone was trained against, by its proof."""
    if ALIGNED not in proof:
        return "an image tower alone"
    made = proof[ALIGNED]
    facts = {"vectors_sha256": "the file of vectors", "weights_sha256": "the weights that made them"}
    digests = ", ".join(f"sha256 of {what} {made[key]}" for key, what in facts.items() if key in made)
    return f"vectors of a model brought from outside; {digests}"


def _what(source: Source) -> str:
    """What goes in and what comes out."""
    dim = source.vision.dim
    if source.text is not None:
        return (f"Pictures and texts to unit vectors of {dim} numbers in one space: an image tower beside a frozen "
                "text tower.")
    if ALIGNED not in source.vision.description:
        return f"Pictures to unit vectors of {dim} numbers: an image tower alone."
    return (f"Pictures to unit vectors of {dim} numbers in the space of a text model that is not here: an image tower "
            f"alone. The texts that it was trained against were vectors of width {dim} that another model had made, "
            "brought from outside.")


def _use_outside(source: Source) -> str:
    """How texts are embedded where they were vectors from outside, "" where not."""
    if source.text is not None or ALIGNED not in source.vision.description:
        return ""
    return (f" Texts: embed them with the model that made those vectors, the way those were made (its prefix or input "
            f"type, all {source.vision.dim} numbers), and divide each by its length; the product with a picture's "
            "vector is their cosine. Vectors of any other model lie in another space, even of the same width.")


def _front_matter(source: Source, files: Sequence[str]) -> ModelCardData:
    """The fields that the hub reads."""
    library = next((name for name, file in LIBRARIES.items() if file in files), "timm")
    base = "" if source.text is None else _hub_id(source.text)
    scores = source.facts["scores"] if "scores" in source.facts else {}
    results = [
        EvalResult(
            task_type="zero-shot-image-classification" if row.metric.startswith("zeroshot") else "image-text-retrieval",
            dataset_type=row.set_name, dataset_name=row.set_name, metric_type=row.metric, metric_name=row.title,
            metric_value=row.score, metric_args=dict(row.beside),
        )  # fmt: skip
        for row in tables.rows(scores)
    ]
    return ModelCardData(
        license="unknown",  # the hub's word for it: whoever publishes the folder has to say
        library_name=library,
        pipeline_tag="image-feature-extraction" if source.text is None else "zero-shot-image-classification",
        tags=["lit_tune", *(name for name in LIBRARIES if name in files and name != library)],
        base_model=base or None,
        model_name=source.name,
        eval_results=results or None,
    )


def _hub_id(text: TextEncoder) -> str:
    """The text tower's repository on the hub, "" where it is none that we know."""
    page = text.description["text"]
    row = weights.row_of(page["weights_sha256"]) or weights.known(page["name"])
    return row.hub if row is not None else ""


def _text_name(text: TextEncoder) -> str:
    """What the text tower is called; of a folder on somebody's disk the last part of its path."""
    name = text.description["text"]["name"]
    return _hub_id(text) or (PurePosixPath(name).name if name.startswith(("/", "~", ".")) else name)


def _bullets(lines: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def _towers(source: Source, proof: Mapping[str, Any]) -> list[str]:
    """Architecture and size of each tower."""
    vision, spec, counts = source.vision, source.vision.tower.spec, proof["parameters"]
    projection = f", of them {counts['vision_projection']:,} in a projection" if counts["vision_projection"] else ""
    lines = [
        f"Image tower: {vision.description['family']}, {vision.image_size[0]} x {vision.image_size[1]} pixels, patch "
        f"{spec.patch_size}, width {spec.width}, depth {spec.depth}, pooling `{spec.pool}`, vectors of {vision.dim} "
        f"numbers; {counts['vision']:,} parameters{projection}.",
    ]
    if source.text is None:
        return lines
    page = source.text.description
    return [
        *lines,
        f"Text tower, frozen: {_text_name(source.text)} ({page['family']}), width {page['spec']['width']}, pooling "
        f"`{page['spec']['pool']}`{', LayerNorm without affine behind it' if page['spec']['layer_norm'] else ''}; "
        f"{counts['text_frozen']:,} parameters.",
    ]


def _inputs(source: Source) -> list[str]:
    """What has to be done to pictures and texts before the towers see them."""
    p = source.vision.preprocess
    lines = [
        f"Size {p['image_size'][0]} x {p['image_size'][1]}, resize mode `{p['resize']}`: {RESIZE[p['resize']]}; "
        f"{p['interpolation']}, antialiased.",
        f"Decoding `{p['policy']}`: {POLICY[p['policy']]}.",
        f"mean {tuple(p['mean'])}, std {tuple(p['std'])} of RGB in [0, 1].",
    ]
    if source.text is None:
        return lines
    t = source.text.description["text"]
    prefix = f"`{t['prefix']}` (with its blank)" if t["prefix"] else "none"
    return [
        *lines,
        f"Prefix of every text: {prefix}. At most {t['max_length']} tokens, prefix and special tokens included.",
        "The image vectors were aligned to query-side text vectors only (texts with this prefix).",
    ]


def _scores(facts: Mapping[str, Any]) -> str:
    """Scores with what they have to be compared with, and how they were made."""
    table = evals.table(facts["scores"]) if "scores" in facts else ""
    if not table:
        return "None were recorded for these weights."
    page = facts["config"]["eval"]
    settings = [f"Sets: {', '.join(f'`{one}`' for one in page['sets'])}; texts with the prefix above, prompts "
                f"{', '.join(f'`{one}`' for one in page['templates'])}, captions from `{page['caption_field']}`"
                + (f", classes from `{page['class_field']}`." if page["class_field"] else "."),
                f"Step {facts['step']:,}, from {facts['scores_from']} of the run; other columns are chance and floors."]
    return f"```\n{table}\n```\n\n{_bullets(settings)}"


def _origin(source: Source, proof: Mapping[str, Any]) -> list[str]:
    """Where weights and data come from, and under which licences as far as that is stated."""
    facts = source.facts
    lines = []
    if source.text is not None:
        lines = [f"Text tower: {_text_name(source.text)}, licence {_text_licence(source.text)}."]
    elif ALIGNED in proof:
        lines = [f"Texts in training: {whose_space(proof)}. Its name, terms and licence: {NOT_STATED}."]
    if facts["kind"] != "run":
        told = facts["vision"] if "vision" in facts else {}
        known = ", ".join(f"{name} {value}" for name, value in told.items()) or NOT_STATED
        how = "an average" if facts["kind"] == "average" else "imported"
        return [*lines, f"Image tower: {how}; source: {known}; licence {_licence(told)}.",
                f"Training data: {NOT_STATED}."]
    config = facts["config"]
    start, data = config["vision"]["init_from"], config["data"]["train"]
    shipped = "; licences: Apache-2.0, MIT, CC-BY-4.0, Unicode-3.0 (lit_tune/emoji/pack/LICENSES.md)"
    return [
        *lines,
        f"Image tower: started from {f'{start}, licence {NOT_STATED}' if start else 'random numbers'}.",
        f"Training data: {data}{shipped if data.startswith('emoji:') else f', licence {NOT_STATED}'}; fingerprint "
        f"{facts['data']['train']}.",
        f"Training: {facts['step']:,} of {config['total_steps']:,} steps, {config['global_batch']:,} pairs each, "
        f"{config['loss']['name']} loss; {_which(config)}config hash {facts['config_hash']}, the whole config is in "
        "proof.json.",
        f"Licence of this folder's image weights: {NOT_STATED}.",
    ]


def _which(config: Mapping[str, Any]) -> str:
    """Which of a run's weights these are, where it has two."""
    decay = config["optim"]["ema_decay"]
    return f"the running average of the weights (decay {decay:g} a step); " if decay > 0 else ""


def _text_licence(text: TextEncoder) -> str:
    """What the text tower's own card says, if it came with one."""
    folder = text.folder
    page = metadata_load(folder / FILE) if folder is not None and (folder / FILE).is_file() else None
    return _licence(page or {})


def _licence(page: Mapping[str, Any]) -> str:
    """The licence that a page names."""
    return str(page["license"]) if page.get("license") else NOT_STATED


def _checked(proof: Mapping[str, Any]) -> list[str]:
    """Who read which file, and how far its vectors were from the towers' own."""
    return [f"{one['what']}, `{one['file']}`, on {one['inputs']}: "
            + ", ".join(f"{c['who']} {c['max_difference']:.1e}" for c in one["checked_by"])
            + f" (tolerance {one['tolerance']:.0e})." for one in proof["checks"]]


def _limits(source: Source, proof: Mapping[str, Any]) -> list[str]:
    """What nobody has checked, and what should be known before use."""
    absent = {name: why for one in proof["checks"] for name, why in one["not_asked"].items()}
    return [
        "Vectors were compared on pictures that had the right size already. What other tools make of pictures that "
        "they decode and resize themselves is measured in lit_tune's own tests: plain RGB ones come out equal in timm, "
        "transformers, sentence-transformers and open_clip.",
        *(f"Prepared otherwise by them: {line}." for line in differences(source.vision.preprocess)),
        *(["The class that reads this layout, NomicVisionModel of nomic-ai/contrastors, was not run on this folder."]
          if proof["format"] == "nomic" else []),
        *(f"{name} was not asked: {why}." for name, why in absent.items()),
        "Scores, where there are any, are lit_tune's own of the run, not of another tool's reading of this folder.",
    ]
