"""What setuptools does not tell: a package folder that is not listed drops out of the wheel without a message."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {
    "edgeq": ROOT / "toolkit" / "edgeq",
    "edgeq.targets": ROOT / "targets",
    "edgeq.exporters": ROOT / "exporters",
}


def package_folders() -> set[str]:
    found = set()
    for package, folder in FOLDERS.items():
        for init in folder.rglob("__init__.py"):
            relative = init.parent.relative_to(folder)
            if package == "edgeq" and relative.parts[:1] in (("targets",), ("exporters",)):
                continue
            found.add(".".join((package, *relative.parts)))
    return found


def test_every_package_folder_is_listed() -> None:
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(package_folders())


def test_every_python_folder_is_a_package() -> None:
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            if package == "edgeq" and path.relative_to(folder).parts[0] in ("targets", "exporters"):
                continue
            assert (path.parent / "__init__.py").is_file(), path


def test_data_files_are_listed() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*"):
            if not path.is_file() or path.suffix in (".py", ".pyc") or "__pycache__" in path.parts:
                continue
            relative = path.relative_to(folder)
            if package == "edgeq" and relative.parts[0] in ("targets", "exporters"):
                continue
            assert any(
                path.match(pattern)
                for owner, patterns in data.items()
                for pattern in patterns
                if ".".join((package, *relative.parts)).startswith(owner)
            ), relative


def test_public_names() -> None:
    import edgeq

    assert sorted(edgeq.__all__) == sorted({"__version__", "export", "load", "validate"})
    assert all(hasattr(edgeq, name) for name in edgeq.__all__)
    assert edgeq.__version__ == PROJECT["project"]["version"]


def test_no_module_takes_the_place_of_a_public_function() -> None:
    """Importing `edgeq.validate`, were it a module, would replace the function of that name."""
    import edgeq

    folder = FOLDERS["edgeq"]
    taken = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not taken & set(edgeq.__all__)
    commands = {path.stem for path in (folder / "cli").glob("*.py")}
    assert not commands & {"main", "run_command_line"}
