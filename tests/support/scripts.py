"""Imports scripts that have no suffix, as those in tools/."""

import importlib.machinery
import importlib.util
import sys
from types import ModuleType

from support.paths import ROOT


def load_script(path: str) -> ModuleType:
    """Imports a script by its path in the repository; what it adds to the import path is taken back."""
    before = list(sys.path)
    name = f"script_{path.replace('/', '_')}"
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    sys.path[:] = before
    return module
