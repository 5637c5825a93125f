"""A whole run in seconds: a text tower of a few thousand random numbers, drawings made by Pillow, the command line.

Nothing is replaced: the text tower's folder is read as any other, the pictures are decoded, the program is the real one
in a process of its own.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simulated
from PIL import Image, ImageDraw
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

COLORS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}
SHAPES = ("circle", "square", "bar", "frame", "cross", "dot")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", *COLORS, *SHAPES)
WIDTH = 16  # of the text tower


def text_folder(folder: Path) -> Path:
    """A folder with a one-block BERT of random weights and a tokenizer that knows WORDS."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    d, m = WIDTH, 32
    shapes = {"embeddings.word_embeddings.weight": (len(WORDS), d), "embeddings.position_embeddings.weight": (16, d),
              "embeddings.token_type_embeddings.weight": (2, d)}
    norms = ["embeddings.LayerNorm"]
    for name, out, into in (("attention.self.query", d, d), ("attention.self.key", d, d),
                            ("attention.self.value", d, d), ("attention.output.dense", d, d),
                            ("intermediate.dense", m, d), ("output.dense", d, m)):
        shapes |= {f"encoder.layer.0.{name}.weight": (out, into), f"encoder.layer.0.{name}.bias": (out,)}
    norms += ["encoder.layer.0.attention.output.LayerNorm", "encoder.layer.0.output.LayerNorm"]
    weights = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    for name in norms:
        weights |= {f"{name}.weight": np.ones(d, np.float32), f"{name}.bias": np.zeros(d, np.float32)}
    save_file(weights, folder / "model.safetensors")
    config = {"model_type": "bert", "hidden_size": d, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": m, "vocab_size": len(WORDS), "max_position_embeddings": 16, "type_vocab_size": 2,
              "layer_norm_eps": 1e-12, "hidden_act": "gelu", "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def picture_folder(folder: Path) -> Path:
    """A folder with 24 drawings, every color in every shape, and captions.csv."""
    folder.mkdir(parents=True)
    lines = ["image,caption"]
    for color, fill in COLORS.items():
        for number, shape in enumerate(SHAPES):
            image = Image.new("RGB", (20, 20), "white")
            draw = ImageDraw.Draw(image)
            box = (2 + number, 3, 16, 17 - number)
            draw.ellipse(box, fill) if number % 2 else draw.rectangle(box, fill)
            name = f"{color}-{shape}.png"
            image.save(folder / name)
            lines.append(f"{name},a {color} {shape}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    return folder


def make_home(folder: Path) -> Path:
    """`folder` with the text tower in `text` and the pictures in `pictures`: what runs are made of."""
    text_folder(folder / "text")
    picture_folder(folder / "pictures")
    return folder


def arguments(text: Path, pictures: Path, workdir: Path, **changes: Any) -> list[str]:
    """The words of a `train` command line for a tower of one block; `changes` by dotted key with `__` for dots."""
    settings: dict[str, Any] = {
        "text.model": text, "text.max_length": 16, "data.train": pictures, "data.caption_field": "txt",
        "eval.sets": (f"pictures={pictures}",), "eval.class_field": "", "eval.every": 0, "eval.batch": 16,
        "vision.image_size": (16, 16), "vision.patch_size": 8, "vision.width": 32, "vision.depth": 1,
        "vision.num_heads": 2, "vision.mlp_dim": 64, "vision.pool_mlp_dim": 64, "vision.embed_dim": WIDTH,
        "global_batch": 8, "total_steps": 60, "optim.warmup_steps": 5, "optim.lr_base_batch": 8,
        "checkpoint.every": 10, "log.every": 1, "log.block_stats_steps": 0, "data.cache_decoded_mib": 0,
        **{name.replace("__", "."): value for name, value in changes.items()}}
    return ["--config=quickstart", f"--workdir={workdir}"] + [f"--config.{k}={v}" for k, v in settings.items()]


def start(arguments: list[str], cache: Path, *, devices: int = 1, folder: Path = Path(__file__).parent.parent,
          inside: Sequence[str] = (), **environment: str) -> subprocess.Popen:
    """`python -m lit_tune.train` in a process of its own, started in a folder, by the words `inside`; its output is in
    `.stdout` as text."""
    variables = os.environ | {"LIT_TUNE_CACHE": str(cache), "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1",
                              "XLA_FLAGS": simulated.flags(devices), **environment}
    return subprocess.Popen([*inside, sys.executable, "-m", "lit_tune.train", *arguments], env=variables, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def finish(process: subprocess.Popen, timeout: float = 240) -> tuple[int, str]:
    """(exit code, output) of a started process."""
    output = process.communicate(timeout=timeout)[0]
    return process.returncode, output


def lines(workdir: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl so far."""
    file = workdir / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")] if file.exists() else []


def kept(workdir: Path, step: int | None = None) -> tuple[int, dict[tuple[int, str], float]]:
    """(newest step that counts, or `step`; when each log line up to it was written): what a resume leaves as it is.

    A run that begins anew writes the same numbers, but at other times.
    """
    whole = [int(file.parent.name) for file in (workdir / "checkpoints").glob("*/digests.json")
             if file.parent.name.isdecimal()]
    step = max(whole, default=0) if step is None else step
    return step, {(line["step"], line["kind"]): line["time"] for line in lines(workdir) if line["step"] <= step}


def check_kept(workdir: Path, before: tuple[int, dict[tuple[int, str], float]]) -> None:
    """A run has gone on from a checkpoint and not from scratch: `before` is what `kept` gave when it was stopped."""
    step, times = before
    assert times, "nothing was saved before the stop, so nothing shows that the run went on"
    assert times.items() <= kept(workdir, step)[1].items(), f"the run did not go on from step {step}"


def wait_for_step(workdir: Path, step: int, process: subprocess.Popen, timeout: float = 240, *, saved: int = 0) -> None:
    """Returns when the log has reached a step, and checkpoint `saved` or a later one counts: saves lag behind."""
    deadline = time.monotonic() + timeout
    while not any(line["step"] >= step for line in lines(workdir)) or kept(workdir)[0] < saved:
        assert process.poll() is None, f"the run ended before step {step}: {process.communicate()[0]}"
        assert time.monotonic() < deadline, f"no step {step} within {timeout} s"
        time.sleep(0.01)
