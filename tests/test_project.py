"""The repository itself: documented, annotated, free of this or that machine, and as the README says it is."""

import ast
import fnmatch
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_tune import digests

ROOT = Path(__file__).parents[1]
PACKAGE = sorted([*(ROOT / "lit_tune").rglob("*.py"), *(ROOT / "configs").glob("*.py")])
CODE = [*PACKAGE, *sorted((ROOT / "launch").glob("*.py"))]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("*/README.md")]
LONGEST = 400  # lines of a file; longer ones want to be two
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def name(path: Path) -> str:
    """A path as the repository names it."""
    return path.relative_to(ROOT).as_posix()


def ours() -> list[Path]:
    """All text files that belong to the repository."""
    folders = ("lit_tune", "configs", "docs", "tests", "launch", "notebooks", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    top = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    kinds = (".py", ".sh", ".md", ".toml", ".yaml", ".txt", ".in", ".json", ".ipynb", "")
    return sorted(path for path in [*inside, *top] if path.is_file() and path.suffix in kinds)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a module, nested ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def public(tree: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Public classes, functions and methods."""
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


@pytest.mark.parametrize("path", CODE, ids=name)
def test_every_module_and_public_name_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), f"{name(path)}: no module docstring"
    lacking = [node.name for node in public(tree) if not ast.get_docstring(node)]
    assert not lacking, f"{name(path)}: no docstring on {lacking}"


@pytest.mark.parametrize("path", CODE, ids=name)
def test_every_function_is_annotated(path: Path) -> None:
    lacking = []
    for function in functions(ast.parse(path.read_text())):
        taken = function.args
        given = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
        bare = [a.arg for a in given if a is not None and a.annotation is None and a.arg not in ("self", "cls")]
        lacking += [f"{function.name}: {bare}"] if bare else []
        lacking += [f"{function.name}: returns"] if function.returns is None else []
    assert not lacking, f"{name(path)}: {lacking}"


def test_no_file_outgrows_one_reading() -> None:
    long = {name(path): lines for path in CODE if (lines := path.read_text().count("\n")) > LONGEST}
    assert not long, f"more than {LONGEST} lines: {long}"


def test_nothing_names_a_machine_or_a_folder_beside_the_clone() -> None:
    places = re.compile(r"(?<![\w./])/(work|root|home/\w+)/|/tmp/w\b|\.\./shared\b")
    for path in ours():
        if name(path) not in (".ci/run", "tests/test_project.py"):
            found = places.search(path.read_text(errors="replace"))
            assert found is None, f"{name(path)} names {found[0]}"


def anchors(markdown: str) -> set[str]:
    """The anchors of a page, by GitHub's rule: small letters, signs left out, blanks to dashes, repeats numbered."""
    found: set[str] = set()
    prose = re.sub(r"^(`{3,}|~{3,}).*?^\1`*$", "", markdown, flags=re.M | re.S)
    for title in re.findall(r"^#{1,6} +(.+?)(?: +#+)? *$", prose, re.M):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        numbered = (slug if number == 0 else f"{slug}-{number}" for number in range(len(found) + 1))
        found.add(next(one for one in numbered if one not in found))
    return found | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", prose))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_of_the_pages_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        target, _, anchor = link.partition("#")
        if target.startswith("https://"):
            continue
        there = page.parent / target if target else page
        assert there.exists(), f"{name(page)} links to {target}"
        assert not anchor or anchor in anchors(there.read_text()), f"{name(page)} links to {link}: no such heading"


CHECKLISTS = re.findall(r"^## (.+)\n((?:(?!^## ).*\n)+)", (ROOT / "docs" / "adding.md").read_text(), re.M)


@pytest.mark.parametrize("what, steps", CHECKLISTS, ids=[what for what, _ in CHECKLISTS])
def test_every_checklist_ends_with_tests_that_are_there(what: str, steps: str) -> None:
    last = re.split(r"^\d+\. ", steps, flags=re.M)[-1]
    assert last.startswith("Pass: "), f"{what} ends with: {last}"
    lines = [" ".join(line.split()) for line in re.findall(r"`(pytest [^`]+)`", last)]
    assert lines, f"{what} names no line to type"
    files = [word for line in lines for word in line.split() if word.startswith("tests/")]
    assert files and all((ROOT / file).is_file() for file in files), f"{what}: {files}"


def test_pages_that_code_names_are_there() -> None:
    named = re.compile(r"(?<![\w/])(docs/[\w-]+\.md|launch/README\.md|notebooks/README\.md)(?:#([\w-]+))?")
    for path in (path for path in ours() if path.suffix != ".md"):
        for target, anchor in named.findall(path.read_text(errors="replace")):
            assert (ROOT / target).exists(), f"{name(path)} names {target}"
            assert not anchor or anchor in anchors((ROOT / target).read_text()), f"{name(path)} names {target}#{anchor}"


# Headings and the anchors that github.com gives them.
SLUGS = {"# From a laptop to a pod": "from-a-laptop-to-a-pod", "## `plan --json`: keys": "plan---json-keys",
         "### A_b, c & [d](e.md) ##": "a_b-c--d", "## Été, 90 %": "été-90-"}


def test_anchors_are_githubs() -> None:
    assert anchors("\n".join(SLUGS)) == set(SLUGS.values())
    page = "# A\n```\n# no heading\n```\n## A\n#hash\n<a id=\"here\"></a>\n## A\n"
    assert anchors(page) == {"a", "a-1", "a-2", "here"}


def test_map_of_the_readme_matches_the_tree() -> None:
    text = (ROOT / "README.md").read_text()
    lines = re.search(r"<!-- map -->\n```\n(.*?)```", text, re.S)[1].splitlines()
    for line in lines:
        entry = line.split()[0]
        assert (ROOT / ("lit_tune" if line.startswith("  ") else ".") / entry).exists(), f"no {entry}"
    folders = {path.name for path in (ROOT / "lit_tune").iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert {f"{folder}/" for folder in folders} <= {line.split()[0] for line in lines}


def test_the_two_lines_of_the_readme_can_be_found_by_ci() -> None:
    text = (ROOT / "README.md").read_text()
    for label in ("quickstart", "tests"):
        block = re.search(rf"<!-- ci:{label} -->\n```bash\n(.*?)```", text, re.S)
        assert block and block[1].count("\n") == 1, f"{label}: one line, as it is pasted"


def test_everything_that_is_not_code_is_packaged() -> None:
    setup = ast.parse((ROOT / "setup.py").read_text())
    call = next(node for node in ast.walk(setup) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup")
    data = ast.literal_eval(next(keyword.value for keyword in call.keywords if keyword.arg == "package_data"))
    patterns = [f"{package.replace('.', '/')}/{pattern}" for package, listed in data.items() for pattern in listed]
    for path in (ROOT / "lit_tune").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert any(fnmatch.fnmatch(name(path), pattern) for pattern in patterns), f"{name(path)} is not packaged"


def test_the_digest_of_the_code_follows_every_module(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "lit_tune", tmp_path / "lit_tune", ignore=shutil.ignore_patterns("pack", "__pycache__"))
    code = ("import sys; sys.path.insert(0, sys.argv[1]); from lit_tune import digests; "
            "assert digests.__file__.startswith(sys.argv[1]); print(digests.code_digest())")
    found = [digests.code_digest()]
    for change in (None, "models/layers.py", "data/order.py"):
        if change:
            with (tmp_path / "lit_tune" / change).open("a") as file:
                file.write("# another\n")
        found.append(subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True,
                                    check=True, cwd=tmp_path).stdout.strip())
    assert found[0] == found[1] and len(set(found)) == 3, "the same code anywhere, another with any change"


def test_the_shipped_pairs_stay_under_12_mb() -> None:
    pack = ROOT / "lit_tune" / "emoji" / "pack"
    assert 1e6 < sum(path.stat().st_size for path in pack.iterdir()) < 12e6


def test_every_package_that_is_imported_is_asked_for() -> None:
    known = {"ml_collections": "ml-collections", "PIL": "pillow", "absl": "absl-py", "orbax": "orbax-checkpoint",
             "open_clip": "open_clip_torch", "sentence_transformers": "sentence-transformers",
             "clip_benchmark": "clip-benchmark", "sklearn": "scikit-learn",
             "tensorflow_datasets": "tensorflow-datasets"}
    optional = {"resvg_py"}  # only rebuilds the shipped pairs
    setup = (ROOT / "setup.py").read_text()
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text())):
            listed = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
                [node.module] if isinstance(node, ast.ImportFrom) else [])
            for root in {word.split(".")[0] for word in listed} - sys.stdlib_module_names - {"lit_tune"} - optional:
                wanted = known[root] if root in known else root
                assert re.search(rf'"{re.escape(wanted)}\b', setup), f"{name(path)} imports {root}"
