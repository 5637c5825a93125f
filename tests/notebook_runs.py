"""A notebook executed as by a reader: by nbmake, in a kernel and a folder of its own; what it drew is written back."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

FOLDER = Path(__file__).parents[1] / "notebooks"
MOST = 400  # seconds of one cell; the slowest takes about 20 on two free cores


def run(name: str, home: Path, startup: str = "") -> nbformat.NotebookNode:
    """The executed notebook, its outputs in it; a cell that fails is an AssertionError with nbmake's words.

    Args:
        name: of a file in notebooks/, without its ending.
        home: an empty folder to run in.
        startup: Python that its kernel runs first.
    """
    copy = Path(shutil.copy(FOLDER / f"{name}.ipynb", home))
    profile = home / "ipython" / "profile_default" / "startup"
    profile.mkdir(parents=True)
    (profile / "first.py").write_text(startup)
    # a kernel of a reader knows nothing of pytest (ipykernel does, by its variables), nor of the tests' eight devices
    mine = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST") and key != "XLA_FLAGS"}
    words = ["-q", "-p", "no:cacheprovider", "--nbmake", f"--nbmake-timeout={MOST}", "--overwrite", copy.name]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=home, capture_output=True, text=True,
                          env=mine | {"LIT_TUNE_FAST": "1", "IPYTHONDIR": str(home / "ipython")})
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return nbformat.read(copy, as_version=4)


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """All outputs, in order."""
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text(notebook: nbformat.NotebookNode) -> str:
    """Everything that was printed."""
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def pictures(notebook: nbformat.NotebookNode) -> int:
    """How many pictures were drawn."""
    kinds = {"image/png", "image/svg+xml"}
    return sum(bool(kinds & set(output.data)) for output in outputs(notebook) if "data" in output)
