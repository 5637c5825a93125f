"""The configs that come with lit_tune: their folder, and the defaults in configs/common.py."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict


def folder() -> Path:
    """The folder of `lit_tune.configs`, which in a clone that is not installed is its configs/."""
    try:
        return Path(importlib.import_module("lit_tune.configs").__file__).parent
    except ModuleNotFoundError:
        found = Path(__file__).parent.parent / "configs"
    spec = importlib.util.spec_from_file_location(
        "lit_tune.configs", found / "__init__.py", submodule_search_locations=[str(found)])
    package: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules["lit_tune.configs"] = package
    spec.loader.exec_module(package)
    return found


def common() -> ConfigDict:
    """The defaults: every key of every config."""
    folder()
    return importlib.import_module("lit_tune.configs.common").get_config()
