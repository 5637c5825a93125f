"""The notebooks: stripped, installable on Colab, made of short cells; and executed, with figures that can be held."""

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import notebook_runs
import pytest
from IPython.core.inputtransformer2 import TransformerManager

NOTEBOOKS = sorted(notebook_runs.FOLDER.glob("*.ipynb"))
LONGEST, IN_A_ROW = 25, 2  # lines of a cell; code cells without a word between them
PACKAGES = {"lit_tune", "jax", "numpy", "matplotlib", "PIL", "IPython"}
PEERS = {"convert_weights": {"torch", "timm", "safetensors"}}


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook."""
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[str]:
    """The code cells of a notebook as Python, magics and shell lines made calls."""
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "code"]
    return [TransformerManager().transform_cell(source) for source in cells]


def name(path: Path) -> str:
    """A notebook's name."""
    return path.stem


def test_there_are_four_and_the_readme_has_all() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["convert_weights", "plan_a_pod", "quickstart", "train_and_inspect"]
    page = (notebook_runs.FOLDER / "README.md").read_text()
    assert all(f"]({path.name})" in page for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_outputs_are_stripped(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.metadata, f"{cell.id} has {cell.metadata}"
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None), f"{cell.id} was run"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}, "the version of the Python that ran it"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_cells_are_short_and_have_words_between_them(path: Path) -> None:
    row = 0
    for cell in read(path).cells:
        row = row + 1 if cell.cell_type == "code" else 0
        assert row <= IN_A_ROW, f"{cell.id}: {row} code cells in a row"
        lines = cell.source.splitlines()
        assert cell.cell_type != "code" or len(lines) <= LONGEST, f"{cell.id}: {len(lines)} lines"
        assert max(map(len, lines)) <= 120, f"{cell.id}: a long line"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_only_what_the_first_cell_installs_is_imported_and_functions_are_few(path: Path) -> None:
    allowed = PACKAGES | (PEERS[path.stem] if path.stem in PEERS else set()) | sys.stdlib_module_names
    trees = [ast.parse(source) for source in code(path)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    roots = {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    roots |= {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert roots <= allowed, f"imports {roots - allowed}"
    assert "lit_tune" in roots
    assert not [node for node in nodes if isinstance(node, ast.ClassDef)], "logic belongs into lit_tune"
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    assert all(ast.get_docstring(function) and len(function.body) <= 8 for function in functions)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_pages_that_a_notebook_names_exist(path: Path) -> None:
    words = "\n".join(cell.source for cell in read(path).cells)
    root = notebook_runs.FOLDER.parent
    for page in re.findall(r"\b(?:docs|lit_tune|configs)/[\w/-]+\.(?:md|py|json)", words):
        assert (root / page).is_file(), page
    for other in re.findall(r"\w+\.ipynb", words):
        assert (notebook_runs.FOLDER / other).is_file(), other


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
@pytest.mark.parametrize("missing", [False, True])
def test_the_first_cell_installs_lit_tune_only_where_it_is_missing(
    path: Path, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing:
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lit_tune" else found(name))
    monkeypatch.setenv("LIT_TUNE_REPOSITORY", "https://example.org/lit_tune")
    typed: list[tuple[str, str]] = []
    shell = SimpleNamespace(run_line_magic=lambda magic, line: typed.append((magic, line)))
    space: dict[str, object] = {"get_ipython": lambda: shell}
    exec(code(path)[0], space)
    assert len(typed) == missing
    for magic, line in typed:
        extras = "notebook,torch" if path.stem in PEERS else "notebook"
        assert magic == "pip" and line == f'install -q "lit_tune[{extras}] @ git+{{REPOSITORY}}"'
    assert space["REPOSITORY"] == "https://example.org/lit_tune"
    monkeypatch.delenv("LIT_TUNE_REPOSITORY")  # nobody has put in an address
    if not missing:
        return exec(code(path)[0], space)
    with pytest.raises(SystemExit, match="REPOSITORY: expected the address of lit_tune, found none; put it into"):
        exec(code(path)[0], space)
    assert len(typed) == 1, "pip was asked for an address that nobody gave"


@pytest.mark.slow
def test_the_quick_start_finds_pictures(tmp_path: Path) -> None:
    done = notebook_runs.run("quickstart", tmp_path)
    printed = notebook_runs.text(done)
    assert "step 20/20" in printed and (tmp_path / "runs" / "notebook-20-steps" / "final.json").is_file()
    assert re.search(r"right: \d+%, by chance 8%", printed)
    assert notebook_runs.pictures(done) == 7  # zero-shot, three queries in words, two pictures, the matrix


@pytest.mark.slow
def test_the_inside_of_a_training_shows_loss_attention_and_gap(tmp_path: Path) -> None:
    done = notebook_runs.run("train_and_inspect", tmp_path)
    printed = notebook_runs.text(done)
    losses = [float(loss) for loss in re.findall(r"step +\d+  loss ([\d.]+)", printed)]
    assert len(losses) >= 10 and sum(losses[-3:]) < sum(losses[:3]) - 0.3
    gaps = [tuple(map(float, pair)) for pair in re.findall(r"gap \w+ +([\d.]+)   by chance ([\d.]+)", printed)]
    assert len(gaps) == 2 and all(gap > 5 * chance > 0 for gap, chance in gaps)
    assert "patches: (5, 3, 6, 6)" in printed and printed.count("_recall@") == 6
    assert notebook_runs.pictures(done) == 3


def test_a_pod_is_planned_with_and_without_the_tpu_compiler(tmp_path: Path) -> None:
    done = notebook_runs.run("plan_a_pod", tmp_path)
    printed = notebook_runs.text(done)
    tpu = importlib.util.find_spec("libtpu") is not None
    assert ("SKIPPED: v5e:2x4 needs libtpu" in printed) != tpu
    assert ("broken promises: none" in printed) == tpu
    peaks = [float(peak) for peak in re.findall(r"\d+ parts: at most ([\d.]+) of 75 GiB, fits", printed)]
    assert len(peaks) == 2 and peaks[0] > peaks[1] > 0  # more parts, less memory
    assert len(re.findall(r"^h100 ", printed, re.M)) == 3  # of the slices, and of the table at the end
    assert notebook_runs.pictures(done) == 2
