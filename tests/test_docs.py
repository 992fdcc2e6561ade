"""The documentation holds: links, make targets, configurations and commands exist, and marked examples run."""

import ast
import inspect
import os
import re
from pathlib import Path
from types import ModuleType

import pytest

import fewseg
from fewseg import benchmark, cli
from fewseg.protocols import PROTOCOLS
from test_layers import LAYERS

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "fewseg"
SKIPPED = {"runs", "build", "dist", "wandb", "__pycache__"}  # what is made, not written
TEXTS = {".md", ".py", ".yaml", ".cfg", ".toml", ".txt", ".cff", ".css", ".js", ""}


def written_files():
    """Files of the project, without what tools and runs make."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in SKIPPED and not f.startswith(".") and not f.endswith(".egg-info")]
        yield from (Path(folder) / name for name in names if Path(name).suffix in TEXTS)


PAGES = sorted(path for path in written_files() if path.suffix == ".md")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page(path):
    return pytest.param(path, id=path.relative_to(ROOT).as_posix())


def fences(text):
    """(words after the backticks, content) of every code block."""
    return [(found[1].strip(), found[2]) for found in FENCE.finditer(text)]


def prose(text):
    return FENCE.sub("", text)


def commands(text):
    """Everything that a reader would type: lines of shell blocks and spans of code."""
    lines = [line for kind, block in fences(text) if kind in ("", "sh") for line in block.splitlines()]
    return [line.strip() for line in lines] + re.findall(r"`([^`\n]+)`", prose(text))


def anchors(path):
    """Names that headings get: lower case, no punctuation, hyphens for spaces."""
    heads = re.findall(r"^#+ (.+)$", prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text())):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield target


@pytest.mark.parametrize("path", [page(path) for path in PAGES])
def test_links_resolve(path):
    assert list(broken_links(path)) == []


def test_a_broken_link_is_seen(tmp_path):
    (tmp_path / "a.md").write_text("# One, two\n[x](b.md) [y](a.md#one-two) [z](#three) [w](https://example.org)\n")
    assert list(broken_links(tmp_path / "a.md")) == ["b.md", "#three"]


@pytest.mark.parametrize("path", [page(path) for path in PAGES])
def test_make_targets_exist(path):
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for c in commands(path.read_text()) for word in re.findall(r"^(?:\$ )?make ([a-z][a-z0-9-]*)", c)}
    assert named <= targets


@pytest.mark.parametrize("path", [page(path) for path in PAGES])
def test_files_that_are_named_exist(path):
    text = path.read_text()
    configs = re.findall(r"(?:--config|fewseg benchmark) (\S+\.yaml)", text)
    named = [c for c in configs if not c.startswith("$")]
    named += re.findall(r"(?<![\w/.])((?:src|docs|tests|experiments)/[\w./-]+\.\w+)\b", text)
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", [page(path) for path in PAGES])
def test_commands_exist(path):
    known = {*cli.LIGHTNING, "benchmark", "report", "data"}
    named = {word for c in commands(path.read_text()) for word in re.findall(r"^(?:\$ )?fewseg ([a-z]+)", c)}
    assert named <= known


EXAMPLES = [path for path in PAGES if any(kind == "python run" for kind, _ in fences(path.read_text()))]


@pytest.mark.parametrize("path", [page(path) for path in EXAMPLES])
def test_marked_examples_run(path):
    """Blocks marked ``python run`` run in the order of the page, in one namespace."""
    module = ModuleType("example")
    for number, (kind, code) in enumerate(fences(path.read_text())):
        if kind == "python run":
            exec(compile(code, f"{path.name}, block {number}", "exec"), module.__dict__)


def test_some_examples_are_marked():
    assert ROOT / "docs" / "adding-a-method.md" in EXAMPLES


@pytest.mark.parametrize("path", [page(path) for path in PAGES])
def test_python_blocks_are_python(path):
    for kind, code in fences(path.read_text()):
        if kind.startswith("python") and ">>>" not in code:
            ast.parse(code)


def test_no_file_names_a_place_outside():
    outside = re.compile(r"(?<![\w.-])/" + r"work/|\.\./" + r"shared\b|/" + r"root/|/" + r"home/\w")
    found = [p.relative_to(ROOT).as_posix() for p in written_files() if outside.search(p.read_text(errors="replace"))]
    assert found == []


@pytest.mark.parametrize("name", fewseg.list_models())
def test_every_method_has_a_page_with_its_arguments(name):
    import fewseg.models

    method = getattr(fewseg.models, name)
    text = (ROOT / "docs" / "methods" / f"{method.__module__.rpartition('.')[2]}.md").read_text()
    arguments = [argument for argument in inspect.signature(method).parameters if argument != "self"]
    assert [argument for argument in (name, *arguments) if f"`{argument}`" not in text] == []


def test_every_protocol_has_a_row():
    text = (ROOT / "docs" / "protocols.md").read_text()
    rows = {row[0] for row in re.findall(r"^\| `([\w-]+)` (\|.*)$", text, re.MULTILINE)}
    assert rows == set(PROTOCOLS)


def test_the_table_of_layers_is_the_house():
    text = (ROOT / "docs" / "design.md").read_text()
    table = {}
    for layer, rooms in re.findall(r"^\| L(\d+) \| ([^|]+) \|", text, re.MULTILINE):
        table |= dict.fromkeys(re.findall(r"`(\w+)`", rooms), int(layer))
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert table == {room: LAYERS[room] for room in rooms - {"__init__"}}


def test_every_key_of_a_benchmark_file_is_described():
    text = (ROOT / "experiments" / "README.md").read_text()
    keys = {*benchmark.grid.KEYS, *(f"training.{key}" for key in benchmark.reading.TRAINING_KEYS)}
    keys |= {f"methods.<name>.{key}" for key in benchmark.grid.METHOD_KEYS}
    assert {key for key in keys if f"| `{key}` |" not in text} == set()


def test_every_configuration_is_described():
    text = (ROOT / "experiments" / "README.md").read_text()
    files = {path.name for path in (ROOT / "experiments").rglob("*") if path.suffix in (".yaml", ".py")}
    assert {name for name in files if not re.search(rf"[\[/(]{re.escape(name)}", text)} == set()
