"""Imports never climb: solvers know no gradients, gradients no models, models no experiments."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "deqrun"

# Of each package or root module, the packages and root modules of deqrun that it may import.
SETTINGS = {
    "settings",
    "study_settings",
    "component_settings",
    "settings_errors",
    "peer_settings",
    "group_choices",
    "config_sources",
    "sentences",
    "yaml_text",
    "trusted_code",
}
MAY_IMPORT: dict[str, set[str]] = {
    "solvers": set(),
    "gradients": {"solvers"},
    "datasets": set(),
    "models": {"gradients", "solvers"},
    "analysis": {"gradients", "solvers", "models"},
    "contracts": {"models", "datasets", "gradients"},
    "inference": set(),
    "report": {"inference", "models", "yaml_text"},
    **dict.fromkeys(SETTINGS, SETTINGS),
    "claims": SETTINGS,
    "streams": set(),
    "experiment": {
        "claims",
        "contracts",
        "report",
        "inference",
        "analysis",
        "models",
        "datasets",
        "gradients",
        "solvers",
        *SETTINGS,
    },
    "studies": {
        "claims",
        "contracts",
        "experiment",
        "report",
        "inference",
        "analysis",
        "models",
        "datasets",
        "gradients",
        "solvers",
        *SETTINGS,
    },
    "command_line": {"claims", "contracts", "studies", "experiment", "report", *SETTINGS},
    "cli": {"claims", "streams", "command_line", "experiment", "report", *SETTINGS},
    "__main__": {"cli"},
}


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
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = MAY_IMPORT[room] | {room, "__version__"}
    assert imports(path) <= allowed, f"{path} imports {sorted(imports(path) - allowed)}"


def test_inference_report_and_settings_import_no_torch() -> None:
    rooms = [PACKAGE / "inference", PACKAGE / "report", *(PACKAGE / f"{name}.py" for name in SETTINGS)]
    files = [file for room in rooms for file in (room.rglob("*.py") if room.is_dir() else [room])]
    assert [file for file in files if re.search(r"^\s*(import|from) torch", file.read_text(), re.MULTILINE)] == []


def test_every_room_is_in_the_design() -> None:
    """A package of deqrun that docs/design.md does not name would be one that a newcomer cannot find."""
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert {room for room in rooms if f"{room}/" not in design} == set()
