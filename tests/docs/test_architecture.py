"""The picture of the house is true: imports go down, and only where its arrows lead."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"vitsd_runtime": "runtime", "vitsd": "vitsd", "vitsd_export": "export"}


@pytest.fixture(scope="module")
def draw():
    place = ROOT / "docs" / "architecture" / "draw.py"
    spec = importlib.util.spec_from_file_location("draw", place)
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["draw"]


def source(distribution: str) -> Path:
    return ROOT / FOLDERS[distribution] / "src" / distribution


def rooms(distribution: str) -> set[str]:
    """Modules and folders right below the package; folders end in a slash."""
    root = source(distribution)
    modules = {path.stem for path in root.glob("*.py") if path.name != "__init__.py"}
    # Not folders of data, such as trained models.
    return modules | {f"{path.parent.name}/" for path in root.glob("*/__init__.py")}


def imports(distribution: str):
    """(importing room, imported distribution, imported room) of every import of ours.

    Those for type checkers alone are passed over.
    """
    root = source(distribution)
    for path in sorted(root.rglob("*.py")):
        room = path.relative_to(root).parts[0].removesuffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        passed_over = for_type_checkers(tree)
        for node in ast.walk(tree):
            for name in () if node in passed_over else imported_names(node):
                package, _, rest = name.partition(".")
                if package in FOLDERS:
                    yield room, package, rest.split(".")[0]


def for_type_checkers(tree: ast.AST) -> set[ast.AST]:
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    blocks = [block for block in blocks if ast.unparse(block.test) == "TYPE_CHECKING"]
    return {inner for block in blocks for inner in ast.walk(block)}


def imported_names(node: ast.AST) -> list[str]:
    """Dotted names of what an import statement imports; of modules where it says so."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom) or not node.module:
        return []
    if node.module in FOLDERS:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [node.module]


@pytest.mark.parametrize("distribution", FOLDERS)
def test_every_room_is_drawn(draw, distribution):
    drawn = [room for floor in draw.HOUSE[distribution] for room in floor]
    assert sorted(drawn) == sorted(rooms(distribution))


@pytest.mark.parametrize("distribution", FOLDERS)
def test_imports_go_down(draw, distribution):
    house = draw.HOUSE[distribution]
    floors = {room.rstrip("/"): i for i, floor in enumerate(house) for room in floor}
    upwards = {
        (room, imported)
        for room, package, imported in imports(distribution)
        if package == distribution
        and room in floors
        and imported in floors
        and floors[imported] < floors[room]
    }
    assert upwards == set()


@pytest.mark.parametrize("distribution", FOLDERS)
def test_no_two_rooms_import_each_other(distribution):
    pairs = {
        (room, imported)
        for room, package, imported in imports(distribution)
        if package == distribution and room != imported
    }
    assert {pair for pair in pairs if pair[::-1] in pairs} == set()


@pytest.mark.parametrize("distribution", FOLDERS)
def test_only_allowed_distributions_are_imported(draw, distribution):
    imported = {package for _, package, _ in imports(distribution)} - {distribution}
    assert imported <= set(draw.ALLOWED[distribution])


def test_the_pictures_are_those_of_the_script(draw, tmp_path):
    folder = ROOT / "docs" / "architecture"
    draw.draw_house(tmp_path / "house.svg")
    draw.draw_way(tmp_path / "image.svg", "An image's way", draw.IMAGE)
    draw.draw_way(tmp_path / "weight.svg", "A weight's way", draw.WEIGHT)
    for drawn in tmp_path.iterdir():
        assert drawn.read_text() == (folder / drawn.name).read_text(), (
            "run docs/architecture/draw.py"
        )
