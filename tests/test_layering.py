"""Imports never climb: solvers know no gradients, gradients no models, models no experiments."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "deqrun"

# Of each room of deqrun, the rooms that it may import. Each line is a floor: nothing below it is named twice.
GROUND = {"arguments", "errors"}
WORK = {"solvers", "gradients", "models", "datasets", "analysis", "contracts"}
MAY_IMPORT: dict[str, set[str]] = {
    "arguments": set(),
    "errors": set(),
    "solvers": GROUND,
    "gradients": {"solvers", *GROUND},
    "datasets": GROUND,
    "models": {"gradients", "solvers", *GROUND},
    "analysis": {"gradients", "solvers", "models", "records", "inference", *GROUND},
    "contracts": {"models", "datasets", "gradients", *GROUND},
    "inference": GROUND,
    "records": GROUND,
    "settings": {"records", *GROUND},
    "report": {"inference", "records", "models", *GROUND},
    "experiment": {"settings", "records", "inference", *WORK, *GROUND},
    "studies": {"experiment", "report", "settings", "records", "inference", *WORK, *GROUND},
    "loading": {"experiment", "report", "settings", "records", *WORK, *GROUND},
    "cli": {"studies", "experiment", "report", "settings", "records", "contracts", *GROUND},
    "__main__": {"cli"},
}
# One module of a room may import more than its room: the last step of a run writes its report.
MORE: dict[str, set[str]] = {"experiment/launch.py": {"report"}}


def imports(path: Path) -> set[str]:
    """First parts below deqrun of everything that a module imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "deqrun" else [module]
        found |= {name.split(".")[1] for name in names if name.startswith("deqrun.")}
    return found


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_do_not_climb(path: Path) -> None:
    place = path.relative_to(PACKAGE)
    room = place.parts[0].removesuffix(".py")
    allowed = MAY_IMPORT[room] | MORE.get(str(place), set()) | {room, "__version__"}
    assert imports(path) <= allowed, f"{path} imports {sorted(imports(path) - allowed)}"


def test_the_root_holds_rooms_and_the_ground_floor_alone() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "__main__", *GROUND}


def test_what_is_read_without_torch_imports_none() -> None:
    rooms = ("arguments.py", "errors.py", "inference", "records", "report", "settings")
    files = [path for path in modules() if path.relative_to(PACKAGE).parts[0] in rooms]
    assert [path for path in files if re.search(r"^\s*(import|from) torch", path.read_text(), re.MULTILINE)] == []


def test_every_room_is_in_the_design() -> None:
    """A package of deqrun that docs/design.md does not name would be one that a newcomer cannot find."""
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert {room for room in rooms if f"{room}/" not in design} == set()
