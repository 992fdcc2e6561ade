"""Data flows one way: a file imports from lower layers or from its own package (docs/design.md, the house)."""

import ast
from pathlib import Path

import fewseg

LAYERS = {
    "errors": 0, "episode": 0, "published": 0,
    "functional": 1,
    "network": 2, "datasets": 2, "modules": 2, "losses": 2, "metrics": 2,
    "sampling": 3, "transforms": 3, "results": 3,
    "protocols": 4, "refinement": 4, "pictures": 4, "dashboard": 4, "feature_store": 4, "frame_annotations": 4,
    "session": 5, "video_session": 5, "instance_search": 5,
    "evaluation": 6,
    "datamodules": 7, "models": 7,
    "callbacks": 8,
    "benchmark": 9, "report": 9,
    "cli": 10,
}  # fmt: skip
ROOT = Path(fewseg.__file__).parent
NAMED_TUPLES = ("_fields", "_replace", "_asdict", "_make")  # public for all their underscores


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fewseg"):
            if node.module == "fewseg":
                yield from (alias.name for alias in node.names)
            else:
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fewseg."))


def offences(path, room):
    for target in imports(path):
        if target in LAYERS and target != room and LAYERS[target] >= LAYERS[room]:
            yield f"{path.relative_to(ROOT)} (L{LAYERS[room]}) imports {target} (L{LAYERS[target]})"


def test_every_file_imports_downwards():
    found = []
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room != "__init__":
            found += offences(path, room)
    assert not found, "\n".join(found)


def test_every_room_has_a_layer():
    rooms = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")} - {"__init__"}
    assert rooms <= set(LAYERS)


def test_the_check_sees_an_upward_import(tmp_path):
    upward = ROOT / "functional" / "geometry.py"
    assert not list(offences(upward, "functional"))
    assert list(offences(ROOT / "benchmark" / "grid.py", "errors")), "a lower room with these imports would offend"


def private_names(path):
    """Names with a leading underscore that a file takes from another file of the package."""
    tree = ast.parse(path.read_text())
    ours = set()  # local names of what it imports
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fewseg":
            for alias in node.names:
                ours.add(alias.asname or alias.name)
                if alias.name.startswith("_") and not alias.name.startswith("__"):
                    yield f"{path.name} imports {node.module}.{alias.name}"
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ours
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and node.attr not in NAMED_TUPLES
        ):
            yield f"{path.name} reads {node.value.id}.{node.attr}"


def test_no_file_takes_private_names_of_another():
    found = [offence for path in ROOT.rglob("*.py") for offence in private_names(path)]
    assert not found, "\n".join(found)


def test_the_check_sees_private_names(tmp_path):
    file = tmp_path / "new.py"
    file.write_text(
        "from fewseg.datasets import shapes\n"
        "from fewseg.datasets import voc as other\n"
        "from fewseg.errors import FewsegError, _hidden, __version__\n"
        "shapes.render_scene(0), shapes._write_tree(1), other._read, shapes.__name__, self._own, FewsegError._hint\n"
    )
    assert sorted(private_names(file)) == [
        "new.py imports fewseg.errors._hidden",
        "new.py reads FewsegError._hint",
        "new.py reads other._read",
        "new.py reads shapes._write_tree",
    ]
