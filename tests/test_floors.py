"""The floors of the package: imports go down or stay in the room, and never round in circles.

Read from the source, so that a late import inside a function counts as well; that nothing heavy
comes in by another way is seen in fresh processes.
"""

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGE = "amae_nnunet"

#: The floor of each room; a module that lies directly in the package is a room of its own.
FLOORS = {
    **dict.fromkeys(["", "_startup", "errors", "folders", "contrasts", "subsets", "config"], 0),
    **dict.fromkeys(["intact", "lock", "parse", "unpack", "whole", "workers"], 0),
    **dict.fromkeys(["networks", "phantom", "convert", "plans"], 1),
    **dict.fromkeys(["pretraining", "training", "prediction", "evaluation", "sharing"], 2),
    "cli": 3,
}
#: The parts of nnU-Net that a room may import; the rooms that are not named may import all of it.
NNUNET_PARTS: dict[str, set[str]] = {
    **{room: set() for room, floor in FLOORS.items() if floor == 0},
    "networks": set(),
    "phantom": set(),
    "convert": {"nnunetv2.dataset_conversion.generate_dataset_json", "nnunetv2.paths"},
}
WITHOUT_TORCH = {*(room for room, floor in FLOORS.items() if floor == 0), "phantom", "convert"}


@dataclass(frozen=True)
class Import:
    """One import: where it stands, what it names, and whether it runs with the module."""

    importer: str
    target: str
    at_module_level: bool

    def __str__(self):
        return f"{self.importer} imports {self.target}"


def modules_of(folder):
    """The name and the file of each module in the package that lies in ``folder``."""
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports_of(folder):
    """All imports in the package, each of them down to the module that it loads."""
    names = dict(modules_of(folder))
    found = []
    for module, path in names.items():
        tree = ast.parse(path.read_text(), str(path))
        late = {id(node) for node in ast.walk(tree) if _runs_late(node) for node in ast.walk(node)}
        for node in ast.walk(tree):
            for target in _targets(node, module, path.stem == "__init__", names):
                found.append(Import(module, target, id(node) not in late))
    return found


def _runs_late(node):
    only_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    return only_types or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def _targets(node, module, is_package, names):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = module.split(".")[: None if is_package else -1]
        base = ".".join([*package[: len(package) + 1 - node.level], *filter(None, [base])])
    if base.split(".")[0] == PACKAGE:
        below = [f"{base}.{alias.name}" for alias in node.names]
        return [name if name in names else base for name in below]
    if base == "nnunetv2" or base.startswith("nnunetv2."):
        return [f"{base}.{alias.name}" for alias in node.names]
    return [base]


def room_of(module):
    return module.split(".")[1] if "." in module else ""


def violations(folder):
    """Each import that breaks a rule of the floors, with the rule it breaks."""
    found = []
    for entry in imports_of(folder):
        room, top = room_of(entry.importer), entry.target.split(".")[0]
        if top == PACKAGE:
            other = room_of(entry.target)
            both_lowest = FLOORS[other] == FLOORS[room] == 0
            if not (other == room or both_lowest or FLOORS[other] < FLOORS[room]):
                found.append(f"{entry}: not a floor below")
        elif top == "torch" and room in WITHOUT_TORCH:
            found.append(f"{entry}: this room knows no torch")
        elif top == "torch" and room == "plans" and entry.at_module_level:
            found.append(f"{entry}: this room imports torch in functions only")
        elif top == "nnunetv2" and room in NNUNET_PARTS:
            allowed = NNUNET_PARTS[room]
            if not any(
                entry.target == part or entry.target.startswith(part + ".") for part in allowed
            ):
                found.append(f"{entry}: this room knows no such part of nnU-Net")
    return found


def cycle_in(folder):
    """The modules of one import cycle, or nothing."""
    graph = {name: set() for name, _ in modules_of(folder)}
    for entry in imports_of(folder):
        if entry.target in graph and entry.target != entry.importer:
            graph[entry.importer].add(entry.target)
    finished = set()

    def walk(module, path):
        if module in path:
            return [*path[path.index(module) :], module]
        if module in finished:
            return []
        for target in sorted(graph[module]):
            if found := walk(target, [*path, module]):
                return found
        finished.add(module)
        return []

    return next((found for module in graph if (found := walk(module, []))), [])


def third_party(folder):
    """The top-level names, neither ours nor Python's, that the package imports."""
    names = {entry.target.split(".")[0] for entry in imports_of(folder)}
    return names - set(sys.stdlib_module_names) - {PACKAGE, "__future__"}


def write_package(folder, files):
    for path, text in files.items():
        file = folder / PACKAGE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        for parent in file.relative_to(folder).parents[:-1]:
            (folder / parent / "__init__.py").touch()
    return folder / PACKAGE


def test_every_room_has_a_floor():
    rooms = {room_of(name) for name, _ in modules_of(ROOT / PACKAGE)}
    assert rooms <= set(FLOORS)


def test_imports_go_down_or_stay_in_the_room():
    assert violations(ROOT / PACKAGE) == []


def test_no_modules_import_each_other_in_a_circle():
    assert cycle_in(ROOT / PACKAGE) == []


@pytest.mark.parametrize(
    ("path", "line", "rule"),
    [
        ("networks/vit.py", "from amae_nnunet.training import trainer", "not a floor below"),
        ("networks/vit.py", "from ..phantom import signal", "not a floor below"),
        ("training/trainer.py", "import amae_nnunet.pretraining.loop", "not a floor below"),
        ("errors.py", "def f():\n    from .networks.vit import ViT", "not a floor below"),
        ("networks/vit.py", "import nnunetv2", "no such part"),
        ("networks/vit.py", "def f():\n    from nnunetv2.paths import nnUNet_raw", "no such part"),
        ("convert/nifti.py", "from nnunetv2.utilities import utils", "no such part"),
        ("convert/nifti.py", "from torch import nn", "knows no torch"),
        ("phantom/signal.py", "def f():\n    import torch.nn", "knows no torch"),
        ("config.py", "import torch", "knows no torch"),
        ("plans/block.py", "import torch", "in functions only"),
        ("plans/block.py", "class A:\n    import torch", "in functions only"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, path, line, rule):
    others = ["networks/mae.py", "phantom/signal.py", "training/__init__.py", "pretraining/loop.py"]
    package = write_package(tmp_path, {**dict.fromkeys(others, ""), path: line})
    found = violations(package)
    assert len(found) == 1
    assert rule in found[0]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("networks/vit.py", "from amae_nnunet.errors import ConfigError"),
        ("networks/vit.py", "from .tokenizer import Tokenizer"),
        ("networks/vit.py", "import torch"),
        ("contrasts.py", "from amae_nnunet.errors import ContrastError"),
        ("convert/nifti.py", "from nnunetv2.paths import nnUNet_raw"),
        ("plans/block.py", "def f():\n    import torch"),
        ("training/trainer.py", "import nnunetv2.run.run_training\nimport amae_nnunet.plans.block"),
        ("cli/train.py", "from amae_nnunet.training import trainer"),
    ],
)
def test_a_right_import_is_not_reported(tmp_path, path, line):
    others = ["errors.py", "networks/tokenizer.py", "training/trainer.py", "plans/block.py"]
    assert violations(write_package(tmp_path, {**dict.fromkeys(others, ""), path: line})) == []


def test_a_circle_is_found(tmp_path):
    files = {
        "networks/a.py": "from amae_nnunet.networks import b",
        "networks/b.py": "def f():\n    from .c import g",
        "networks/c.py": "import amae_nnunet.networks.a",
    }
    found = cycle_in(write_package(tmp_path, files))
    assert {name.rsplit(".")[-1] for name in found} == {"a", "b", "c"}


#: Packages whose import has another name.
DISTRIBUTIONS = {"pil": "pillow"}
#: The extras that the package itself imports, only where a command needs them.
OPTIONAL = ("dicom", "dask")


def distribution(name):
    name = re.split(r"[<>=!~ ;\[]", name)[0].lower().replace("_", "-")
    return DISTRIBUTIONS.get(name, name)


def test_every_package_that_is_imported_is_declared_and_the_other_way():
    extras = [PROJECT["optional-dependencies"][extra] for extra in OPTIONAL]
    declared = {distribution(entry) for entry in sum(extras, PROJECT["dependencies"])}
    assert declared == {distribution(name) for name in third_party(ROOT / PACKAGE)}


def test_optional_packages_are_not_needed_to_import_any_module():
    optional = {"pydicom", "dcm2niix", "distributed"}
    at_once = {
        str(entry)
        for entry in imports_of(ROOT / PACKAGE)
        if entry.at_module_level and entry.target.split(".")[0] in optional
    }
    assert at_once == set()


def test_a_package_that_nobody_declared_is_found(tmp_path):
    files = {"networks/vit.py": "import os\ndef f():\n    from timm.layers import Mlp"}
    assert third_party(write_package(tmp_path, files)) == {"timm"}


def loaded_by(command, cwd):
    """The top-level names that a command imports, as Python itself reports them."""
    env = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    answer = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return set(re.findall(r"\| +(\w+)$", answer.stderr, re.MULTILINE))


HEAVY = {"torch", "nnunetv2", "numpy"}


@pytest.mark.parametrize("script", sorted(PROJECT["scripts"]))
def test_help_is_instant(script, tmp_path):
    loaded = loaded_by([Path(sys.executable).parent / script, "--help"], tmp_path)
    assert "argparse" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("module", sorted(HEAVY))
def test_a_help_that_is_not_instant_is_found(module, tmp_path):
    code = f"import argparse, {module}"
    assert loaded_by([sys.executable, "-c", code], tmp_path) & HEAVY >= {module}


@pytest.mark.parametrize(
    ("rooms", "never"),
    [
        (("", "errors", "contrasts", "subsets", "config"), {"torch", "nnunetv2"}),
        (("phantom",), {"torch", "nnunetv2"}),
        (("convert",), {"torch"}),
        (("networks",), {"nnunetv2"}),
    ],
)
def test_a_room_brings_in_nothing_heavy_by_another_way(rooms, never, tmp_path):
    names = [name for name, _ in modules_of(ROOT / PACKAGE) if room_of(name) in rooms]
    code = f"import argparse, {', '.join(names)}"
    assert not loaded_by([sys.executable, "-c", code], tmp_path) & never


def test_an_evaluation_begins_without_torch(tmp_path):
    """So that a wrong path is said at once, and predictions are scored without it."""
    code = "import argparse, amae_nnunet.cli.evaluation, amae_nnunet.evaluation.summary"
    assert "torch" not in loaded_by([sys.executable, "-c", code], tmp_path)
