"""A peer's weights into a folder of ours: every array checked against its config before anything is written."""

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lit_tune import description, fetch, tree
from lit_tune.convert import mapping, peer_files, pickles, sources, weights
from lit_tune.convert.adapt import adapt, at_image_size
from lit_tune.convert.peer_options import LAYOUTS
from lit_tune.convert.peer_text import text_spec
from lit_tune.convert.peer_vision import vision_spec
from lit_tune.errors import ConfigError, explain
from lit_tune.flags import ImportFlags
from lit_tune.models.two_towers import family_of, tower_of
from lit_tune.text import encode, weights as text_weights
from lit_tune.text.tokenizer import Tokenizer

KINDS = ("vision", "text")
ARTICLES = {"vision": "an image", "text": "a text"}
FLAGS_OF = {  # which flags are about which tower
    "vision": ("image_size", "patch_size"),
    "text": ("pool", "layer_norm", "prefix", "max_length", "tokenizer"),
}


@dataclass(frozen=True)
class Imported:
    """One tower that was read, ready to be written.

    Attributes:
        kind: vision | text.
        spec, params: of the tower; params float32 numpy arrays under our names.
        page: its description, where its weights are left out.
        copied: the weight file is put in the folder byte for byte, in the peer's layout.
        tokenizer: of a text tower.
    """

    kind: str
    spec: Any
    params: tree.Tree
    page: dict[str, Any]
    copied: bool = False
    tokenizer: Tokenizer | None = None

    @property
    def dim(self) -> int:
        """Width of its vectors."""
        return self.spec.dim if self.kind == "vision" else self.spec.out_dim


def import_towers(flags: ImportFlags) -> list[Imported]:
    """Read the towers that a command line names, check them, write their folder; what was written.

    Raises:
        ConfigError: whatever is wrong with the weights, their config or the folder; nothing was written.
    """
    _check_words(flags)
    found = sources.locate(flags.weights, flags.revision, flags.allow_pickle_weights)
    config = peer_files.config_of(found.folder, flags.from_, flags.model_config)
    wanted = _wanted(flags, peer_files.kinds(config, flags.from_))
    _refuse_unused(flags, wanted)
    out = Path(flags.out).expanduser()
    _check_folder(out, wanted)
    named = sources.read(found)
    read = {"vision": _vision, "text": _text}
    towers = [read[kind](flags, found, config, named) for kind in wanted]
    _check_widths(out, towers)
    try:
        _write(out, found, towers)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(explain(f"--out {out}", expected="a folder that can be written", found=reason,
                                  do="free space, or name another folder")) from error
    return towers


def _check_words(flags: ImportFlags) -> None:
    """Refuse what is none of the words that a flag knows, and a revision of something that is not the hub's."""
    allowed = {"from": (flags.from_, LAYOUTS), "tower": (flags.tower, (*KINDS, "all")),
               "resample": (flags.resample, ("bicubic", "pinv"))}  # fmt: skip
    for name, (found, words) in allowed.items():
        if found not in words:
            raise ConfigError(explain(f"--{name}", expected=" | ".join(words), found=found, do="choose one"))
    if flags.revision and Path(flags.weights).expanduser().exists():
        raise ConfigError(explain(f"--revision={flags.revision}", expected="a hub id as --weights",
                                  found=f"{flags.weights}, which is on this disk", do="leave the flag out"))


def _refuse_unused(flags: ImportFlags, wanted: tuple[str, ...]) -> None:
    """Refuse flags about a tower that is not imported: they would change nothing."""
    for kind, names in FLAGS_OF.items():
        given = [name for name in names if getattr(flags, name) not in (None, "")]
        if given and kind not in wanted:
            raise ConfigError(explain(f"--{given[0]}", expected=f"{ARTICLES[kind]} tower to import",
                                      found=f"{ARTICLES[wanted[0]]} tower only", do="leave the flag out"))


def _wanted(flags: ImportFlags, held: tuple[str, ...]) -> tuple[str, ...]:
    """The towers to import: all that the weights hold, or the one that was asked for."""
    if flags.tower == "all":
        return held
    if flags.tower not in held:
        raise ConfigError(explain(f"--tower={flags.tower}", expected=f"a tower that the weights hold ({held[0]})",
                                  found="none of that kind", do="leave the flag out"))
    return (flags.tower,)


def _check_folder(out: Path, wanted: tuple[str, ...]) -> None:
    """The folder is new, empty, or a model folder that lacks these towers."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    files = {"vision": description.VISION_FILE, "text": description.TEXT_FILE}
    here = [kind for kind in KINDS if (out / files[kind]).is_file()]
    if not here or set(here) & set(wanted):
        found = f"a folder that has a {' and a '.join(here)} tower" if here else "other files in it"
        raise ConfigError(explain(f"--out {out}", expected="a new folder, or an import without this tower",
                                  found=found, do="name another folder"))


def _vision(flags: ImportFlags, found: sources.Found, config: Mapping[str, Any], named: dict) -> Imported:
    """The vision tower."""
    spec = vision_spec(config, flags.from_, named)
    params = mapping.from_peer(named, spec, flags.from_)
    preprocess = peer_files.preprocess(found.folder, config, flags.from_, spec.image_size)
    spec = at_image_size(spec, preprocess["image_size"])
    if flags.image_size or flags.patch_size:
        size = (flags.image_size,) * 2 if flags.image_size else spec.image_size
        patch = flags.patch_size or spec.patch_size
        target = dataclasses.replace(spec, image_size=size, patch_size=patch, pos_embed_grid=(0, 0))
        params, spec = adapt(params, spec, target, flags.resample), target
        preprocess |= {"image_size": list(size)}
    page = description.vision_description(spec, preprocess) | {"source": _source(flags, found)}
    return Imported("vision", spec, params, page)


def _text(flags: ImportFlags, found: sources.Found, config: Mapping[str, Any], named: dict) -> Imported:
    """The text tower: pooling, prefix and longest text from the flags, else from what is known of it."""
    facts = _text_facts(flags, found.folder)
    spec = text_spec(config, flags.from_, pool=facts["pool"], layer_norm=facts["layer_norm"], names=named)
    if flags.pool not in (None, spec.pool):
        raise ConfigError(explain("--pool", expected=f"{spec.pool}, the rule of this tower", found=flags.pool,
                                  do="leave the flag out"))
    params = mapping.from_peer(named, spec, flags.from_)
    folder = Path(flags.tokenizer).expanduser() if flags.tokenizer else found.folder
    longest = encode.token_limit(spec)
    if flags.max_length is not None and flags.max_length > longest:
        raise ConfigError(explain("--max_length", expected=f"at most {longest} tokens for this tower",
                                  found=flags.max_length, do="lower it, or leave it out"))
    tokenizer = Tokenizer(folder, facts["prefix"], min(facts["max_length"] or longest, longest))
    page = encode.describe(spec, tokenizer, found.sha256, flags.weights) | {"source": _source(flags, found)}
    alone = peer_files.kinds(config, flags.from_) == ("text",) and found.file.suffix not in pickles.SUFFIXES
    return Imported("text", spec, params, page, copied=alone, tokenizer=tokenizer)


def _text_facts(flags: ImportFlags, folder: Path) -> dict[str, Any]:
    """pool, layer_norm, prefix and max_length (0: the tower's own), the user's word before what is known."""
    facts = {"pool": "mean", "layer_norm": False, "prefix": "", "max_length": 0} | peer_files.text_facts(folder)
    known = text_weights.known(flags.weights)
    if known is not None:
        facts |= {name: getattr(known, name) for name in facts}
    given = {"pool": flags.pool, "layer_norm": flags.layer_norm, "prefix": flags.prefix,
             "max_length": flags.max_length}  # fmt: skip
    return facts | {name: value for name, value in given.items() if value is not None}


def _source(flags: ImportFlags, found: sources.Found) -> dict[str, str]:
    """Where a tower came from, for its description."""
    return {"from": flags.from_, "weights": found.origin, "sha256": found.sha256}


def _check_widths(out: Path, towers: list[Imported]) -> None:
    """Both towers of a folder give vectors of one width."""
    widths = {tower.kind: tower.dim for tower in towers}
    if (out / description.VISION_FILE).is_file():
        page = description.read_description(out / description.VISION_FILE)
        widths["vision"] = description.vision_tower(page).spec.dim
    if (out / description.TEXT_FILE).is_file():
        page = description.read_description(out / description.TEXT_FILE)
        widths["text"] = encode.text_tower(page).spec.out_dim
    if len(set(widths.values())) > 1:
        raise ConfigError(explain("towers", expected="vectors of one width", found=f"{widths}",
                                  do="import them into folders of their own with --tower, or check the weights"))


def _write(out: Path, found: sources.Found, towers: list[Imported]) -> None:
    """Fill a folder beside `out`, then move it, or its files, into place; descriptions last."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        for tower in towers:
            _write_vision(made, tower) if tower.kind == "vision" else _write_text(made, found, tower)
        if not out.exists() or not any(out.iterdir()):
            fetch.place(made, out)
            return
        for entry in sorted(made.iterdir(), key=lambda path: path.suffix == ".json"):
            entry.rename(out / entry.name)


def _write_vision(folder: Path, tower: Imported) -> None:
    """vision.safetensors under our names, and vision_tower.json."""
    file = folder / description.VISION_WEIGHTS
    weights.write(file, tree.flatten(tower.params))
    description.save_vision(folder, tower.page, file, mapping.NATIVE)


def _write_text(folder: Path, found: sources.Found, tower: Imported) -> None:
    """text/ with weights and tokenizer, and text_tower.json. A text tower's own file is kept bit for bit."""
    target = folder / description.TEXT_FOLDER
    target.mkdir()
    file, layout = target / weights.FILE, mapping.NATIVE
    if tower.copied:
        layout = tower.page["source"]["from"]
        shutil.copyfile(found.file, file)
    else:
        weights.write(file, tree.flatten(tower.params))
    for name in sources.BESIDE:
        if (found.folder / name).is_file() and "/" not in name and not name.startswith("preprocessor"):
            shutil.copyfile(found.folder / name, target / name)
    tower.tokenizer.save(target / "tokenizer.json")
    description.describe_text(folder, tower.page, file, target / "tokenizer.json", layout)


def summary(tower: Imported) -> str:
    """One line about a tower, for people."""
    count = tree.count(tower_of(tower.spec).abstract())
    shape = "{}x{} px, ".format(*tower.spec.image_size) if tower.kind == "vision" else ""
    prefix = "" if tower.kind == "vision" else f", prefix {tower.page['text']['prefix']!r}"
    return (f"{tower.kind:<9} {family_of(tower.spec)}, {shape}depth {tower.spec.depth}, width {tower.spec.width}, "
            f"pool {tower.spec.pool}, vectors of {tower.dim}: {count:,} parameters{prefix}")
