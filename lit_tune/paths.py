"""Where files live that are not the user's: one cache folder, one variable to move it."""

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder: `LIT_TUNE_CACHE`, else the platform's user cache + "lit_tune" (not created here)."""
    if "LIT_TUNE_CACHE" in os.environ:
        return Path(os.environ["LIT_TUNE_CACHE"]).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lit_tune"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "lit_tune"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lit_tune"
