"""What the appliance's modules take from Flower, read in their source: its public modules, and what `places` lists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from oneflower_appliance.flower import internals, places

PUBLIC = ("flwr.app.", "flwr.clientapp.", "flwr.serverapp.")
ROOM = Path(places.__file__).parent


def sources(folder):
    """All modules in a folder but the one that knows Flower's internals, parsed."""
    return {path: ast.parse(path.read_text()) for path in folder.rglob("*.py") if path != Path(internals.__file__)}


def modules_named(tree):
    """The modules that a module names in imports, and in text by which one could import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{found.name}" for found in node.names)
        elif isinstance(node, ast.Import):
            yield from (found.name for found in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"^flwr(?:\.\w+)+$", node.value)


def owner(node):
    """The function of `internals` that is called, if one is."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == f"internals.{getattr(node.func, 'attr', '')}":
        return node.func.attr
    return None


def assigned(function):
    """The variables to which a function assigns what `internals` returns."""
    pairs = []
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs += zip(target.elts, node.value.elts, strict=True) if several else [(target, node.value)]
    return {ast.unparse(target): owner(value) for target, value in pairs if owner(value)}


def names_taken(tree):
    """The names that a module takes from what `internals` returns, directly or by a variable of the same function."""
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        variables = assigned(function)
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute):
                found = owner(node.value) or variables.get(ast.unparse(node.value))
                if found and not node.attr.startswith("__"):  # every class and module has such names
                    yield found, node.attr


def test_only_one_module_names_modules_of_flower_that_are_not_public():
    found = {
        (path.name, name)
        for path, tree in sources(ROOM.parent).items()
        for name in modules_named(tree)
        if name.split(".")[0] == "flwr" and not f"{name}.".startswith(PUBLIC)
    }
    assert found == set()


def test_every_name_that_is_taken_from_flowers_internals_is_listed():
    listed = {(place.owner.__name__, place.name) for found in places.PLACES.values() for place in found}
    taken = {name for tree in sources(ROOM).values() for name in names_taken(tree)}
    assert ("superlink_command", "uvicorn") in taken
    assert ("node_loop", "_push_messages") in taken
    assert taken - listed == set()


def test_what_is_read_in_a_source_is_what_it_takes():
    tree = ast.parse(
        "from flwr.common import x\nNAME = 'flwr.supercore.y'\nprint('flwr is read')\n"
        "def f():\n a, b = internals.one(), 2\n a.first\n internals.two().second.third\n b.fourth\n"
    )
    assert {name for name in modules_named(tree) if name.startswith("flwr")} == {"flwr.common.x", "flwr.supercore.y"}
    assert set(names_taken(tree)) == {("one", "first"), ("two", "second")}
