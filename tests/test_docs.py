"""The pages name what exists: modules, functions and files, in code and in the text."""

import ast
import importlib
import re

import pytest
from support.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
DOTTED = re.compile(r"(?<![\w/.])zoo(?:\.[A-Za-z_]\w*)+")
FILE = re.compile(r"(?<![\w/.])(?:docs|examples|notebooks|studies|tests|tools|zoo)/[\w./-]+\w")


def exists(name):
    """Returns whether a dotted name is a module, or the attribute of one."""
    words = name.split(".")
    for cut in range(len(words), 0, -1):
        try:
            thing = importlib.import_module(".".join(words[:cut]))
        except ModuleNotFoundError:
            continue
        for word in words[cut:]:
            if not hasattr(thing, word):
                return False
            thing = getattr(thing, word)
        return True
    return False


def names_in_code(page):
    """Returns the dotted names that the code of a page imports from zoo, and the attributes that it takes of them."""
    names = set()
    for code in BLOCK.findall(page.read_text(encoding="utf-8")):
        tree = ast.parse(re.sub(r"^ {3}(?=\S| )", "", code, flags=re.MULTILINE))
        imported = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zoo")
            for alias in node.names
        }
        taken = [
            node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        ]
        names |= {f"{imported[node.value.id]}.{node.attr}" for node in taken if node.value.id in imported}
        names |= set(imported.values())
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_pages_exist(page):
    text = page.read_text(encoding="utf-8")
    names = names_in_code(page) | set(DOTTED.findall(text))
    assert not sorted(name for name in names if not exists(name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_in_pages_exist(page):
    names = set(FILE.findall(page.read_text(encoding="utf-8")))
    missing = {name for name in names if not (ROOT / name).exists()}
    assert not {name for name in missing if not re.search(r"my(net|task)|NAME|builder\.tag", name)}
