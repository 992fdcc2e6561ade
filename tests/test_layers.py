"""Data flows one way: a file imports from lower layers or from its own package (docs/design.md, the house)."""

import ast
from pathlib import Path

import fewseg

LAYERS = {
    "errors": 0, "episode": 0, "published": 0,
    "functional": 1,
    "network": 2, "datasets": 2, "modules": 2, "losses": 2, "metrics": 2,
    "sampling": 3, "transforms": 3, "results": 3,
    "protocols": 4, "refinement": 4, "pictures": 4,
    "session": 5, "video_session": 5,
    "evaluation": 6,
    "datamodules": 7, "models": 7,
    "callbacks": 8,
    "benchmark": 9, "report": 9,
    "cli": 10,
}  # fmt: skip
ROOT = Path(fewseg.__file__).parent


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
    assert list(offences(ROOT / "benchmark.py", "sampling")), "a lower room with these imports would offend"
