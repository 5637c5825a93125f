"""Who imports whom: the arrows of docs/adding.md, held by reading the code, not by running it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW_STEP = {"models", "losses", "metrics", "optim", "sharding", "checkpoint", "data", "text", "evals", "convert"}
SUBCOMMANDS = {"import", "train", "eval", "embed", "search", "export", "average", "cache_text", "verify", "bench",
               "plan", "doctor"}


def module_files() -> dict[str, Path]:
    """{dotted name: file} of lit_tune and its configs."""
    files = {}
    for path in [*(ROOT / "lit_tune").rglob("*.py"), *(ROOT / "configs").glob("*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = ("lit_tune", *parts) if parts[0] == "configs" else parts
        files[".".join(parts).removesuffix(".__init__")] = path
    return files


FILES = module_files()


def import_nodes(tree: ast.AST, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements; with `lazy` also those inside functions. Type-checking blocks never run and do not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
                yield from import_nodes(node, lazy)


@cache
def imports(module: str, lazy: bool = False) -> frozenset[str]:
    """Dotted names that a module imports, submodules told apart from names of their package."""
    found = set()
    for node in import_nodes(ast.parse(FILES[module].read_text()), lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        assert node.level == 0, f"{module}: relative import; write lit_tune.... in full"
        full = {f"{node.module}.{alias.name}" for alias in node.names}
        found |= {name if name in FILES else node.module for name in full}
    return frozenset(found)


def reached(module: str, packages: bool = True) -> set[str]:
    """Everything that importing a module loads, itself and (with `packages`) its packages' `__init__` included."""
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in FILES:
            parents = name.split(".") if packages else []
            todo += [".".join(parents[:i]) for i in range(1, len(parents))]
            todo += imports(name)
    return seen


def roots(names: set[str] | frozenset[str]) -> set[str]:
    """First words of dotted names."""
    return {name.split(".")[0] for name in names}


def own(module: str, lazy: bool = True) -> set[str]:
    """The part of lit_tune (second word) of everything of ours that a module imports."""
    return {name.split(".")[1] for name in imports(module, lazy) if name.startswith("lit_tune.")}


def modules(*parts: str) -> list[str]:
    """Modules of some parts of the package."""
    return sorted(name for name in FILES if name.split(".")[1:2] and name.split(".")[1] in parts)


def test_no_import_runs_in_a_circle() -> None:
    for name in FILES:
        below = [other for other in imports(name) if other in FILES and other != name]
        circles = [other for other in below if name in reached(other, packages=False)]
        assert not circles, f"{name} and {circles} import each other"


@pytest.mark.parametrize("part, allowed", [
    ("redaction", set()), ("errors", {"redaction"}), ("paths", set()), ("tree", {"errors"}),
    ("losses", {"errors", "tree", "losses"}), ("tensorboard", {"files"}),
    ("metrics", {"errors", "tree", "files", "tensorboard"}),
    ("models", {"errors", "tree", "losses", "metrics", "models"}),
    ("optim", {"errors", "tree", "losses", "metrics"}), ("sharding", {"errors", "tree", "losses", "metrics"}),
    ("configs", {"configs"}),
])
def test_arrows_do_not_turn_round(part: str, allowed: set[str]) -> None:
    for name in modules(part):
        assert own(name) <= allowed, f"{name} imports {own(name) - allowed}; it may import {sorted(allowed)}"


def test_nobody_imports_a_command_line_and_step_is_imported_only_above_it() -> None:
    for name in FILES:
        part = name.split(".")[1] if "." in name else ""
        assert not (own(name) & SUBCOMMANDS) or part in SUBCOMMANDS - {"train"}, f"{name} imports a command line"
        assert "train" not in own(name), f"{name} imports train"
        if part in BELOW_STEP:
            assert "step" not in own(name), f"{name} imports step"


def test_evals_are_given_functions_not_models() -> None:
    for name in modules("evals", "evaldata", "report", "comparing"):
        assert not own(name) & {"models", "step", "tower", "model", "text", "convert", "checkpoint"}, name
    for name in modules("evals", "evaldata"):
        assert "report" not in own(name) and (name.startswith("lit_tune.evals") or "evals" not in own(name)), name


def test_data_loads_no_jax_but_in_the_loader_and_keymap_loads_no_torch() -> None:
    no_jax = ("cli", "flags", "flag_reading", "config", "config_check", "config_start", "errors", "paths", "__main__")
    for name in modules("data", "evaldata", "emoji", *no_jax):
        if name not in ("lit_tune.data.loader", "lit_tune.data.__main__"):
            assert not roots(reached(name)) & {"jax", "flax", "optax", "orbax"}, f"{name} loads jax"


def test_data_takes_nothing_but_style_sheets_from_the_report() -> None:
    styles = {"lit_tune.report.style", "lit_tune.report.details_style"}
    for name in modules("data"):
        assert not {other for other in imports(name, lazy=True) if other.startswith("lit_tune.report")} - styles, name


def test_torch_and_tensorflow_are_imported_nowhere_but_where_peers_are_asked() -> None:
    peers = {"torch", "tensorflow", "timm", "open_clip", "sentence_transformers", "onnxruntime"}
    # peers check our exports, a pickle is read by torch, an ONNX file run by its runtime
    # where a peer is asked by name
    asked_for = {"lit_tune.exports.peers", "lit_tune.evaluation.others", "lit_tune.benching.peer"}
    asking = {"lit_tune.exports.peers", "lit_tune.convert.pickles", "lit_tune.exports.onnx",
              "lit_tune.convert.onnx_session", "lit_tune.benching.peer"}
    for name in set(FILES) - set(modules("integrations")):  # which only a peer's own users import
        assert not roots(imports(name, lazy=name not in asking)) & peers, name
        assert "transformers" not in roots(imports(name)), f"{name}: lazily, where a tokenizer is made"
        assert name in asked_for or "integrations" not in own(name), f"{name} imports an integration"


def test_planning_reads_names_prices_and_text_without_jax() -> None:
    for name in ("chips", "hlo", "collectives", "cycles", "kernels", "traffic", "prices", "libtpu"):
        assert not roots(reached(f"lit_tune.planning.{name}")) & {"jax", "flax", "optax"}, f"{name} loads jax"
    assert imports("lit_tune.planning.kernels") & set(modules("models")) == {"lit_tune.models.attention.cost"}
    assert not roots(reached("lit_tune.plan")) & {"jax"}, "the command sets variables before jax is imported"


def test_configs_import_only_ml_collections_and_common() -> None:
    for name in modules("configs"):
        assert imports(name, lazy=True) <= {"ml_collections", "lit_tune.configs.common"}, name


def gets_on_configs(tree: ast.AST) -> list[str]:
    """`config.section.get(...)` calls, in functions that take a ConfigDict."""
    found = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            taken = [a.arg for a in function.args.args if a.annotation and "ConfigDict" in ast.unparse(a.annotation)]
            calls = [ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)]
            found += [call for call in calls if call.endswith(".get") and call.split(".")[0] in taken]
    return found


def test_configs_are_read_by_attribute_and_stay_typed() -> None:
    for name, path in FILES.items():
        text = path.read_text()
        assert not gets_on_configs(ast.parse(text)), f"{name}: .get hides a misspelt key"
        assert "configs" not in name or ".get(" not in text, f"{name}: .get hides a misspelt key"
        assert "type_safe=False" not in text, name


def test_importing_lit_tune_or_its_command_line_loads_no_jax() -> None:
    code = "import sys, lit_tune, lit_tune.cli, lit_tune.config; print('jax' in sys.modules, 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.split() == ["False", "False"]
