"""The wheel, installed: that alone makes stock nnU-Net find our trainers, and nothing stays behind.

Each installation is a fresh virtual environment that sees the packages of the running one through
links in a folder of its own, without ours (and, where nnU-Net is installed anew, without nnU-Net).
A plain path line in a ``.pth`` file adds that folder but processes no ``.pth`` file in it, so
nothing of the running environment's own registration reaches the fresh one; a test says so.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from amae_nnunet import __version__, _startup

ROOT = Path(__file__).parents[1]
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
TRAINERS = (
    "AMAETrainer",
    "AMAETrainerNoPretraining",
    "AMAETrainerUNETR",
    "AMAETrainerUNETRNoPretraining",
)
OURS = re.compile(r"_?_?(editable_+)?(impl_)?amae[_-]nnunet.*", re.IGNORECASE)
NNUNET = re.compile(r"(__editable__.*)?nnunetv2.*", re.IGNORECASE)

SHOW_VARIABLE = "import os; print(os.environ.get('nnUNet_extTrainer', 'not set'))"
FIND_TRAINERS = f"""
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
for name in {TRAINERS}:
    trainer = recursive_find_trainer_class_by_name(name)
    print('FOUND', trainer.__name__, trainer.__module__)
"""


class Environment:
    """A virtual environment of its own, with the commands that the tests run in it."""

    def __init__(self, folder, without):
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        self.bin = folder / "venv" / "bin"
        self.site_packages = next((folder / "venv" / "lib").glob("python*/site-packages"))
        shared = folder / "shared"
        shared.mkdir()
        for entry in SITE_PACKAGES.iterdir():
            if not any(pattern.fullmatch(entry.name) for pattern in (OURS, *without)):
                (shared / entry.name).symlink_to(entry)
        (self.site_packages / "shared.pth").write_text(f"{shared}\n")

    def run(self, *command, **variables):
        """Run a command of this environment and return its answer; variables are added."""
        own = ("nnUNet_extTrainer", "AMAE_NNUNET_NO_STARTUP", "PYTHONPATH", "VIRTUAL_ENV")
        env = {key: value for key, value in os.environ.items() if key not in own}
        env["PATH"] = os.pathsep.join([str(self.bin), env["PATH"]])
        return subprocess.run(
            [self.bin / command[0], *command[1:]],
            env={**env, **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def python(self, code, *flags, **variables):
        """The lines that ``code`` prints; it must end well and say nothing on stderr."""
        answer = self.run("python", *flags, "-c", code, **variables)
        assert answer.returncode == 0, answer.stderr
        assert "Traceback" not in answer.stderr, answer.stderr
        return answer.stdout.splitlines()

    def pip(self, *arguments):
        command = [sys.executable, "-m", "pip", "--python", self.bin / "python", *arguments]
        flags = ["--disable-pip-version-check", "--quiet"]
        subprocess.run([*command, *flags], check=True, cwd=self.folder)

    def install(self, *what):
        self.pip("install", "--no-deps", "--no-build-isolation", "--no-index", *what)

    def files(self):
        """All files and folders that an installation could have added to."""
        places = (self.site_packages, self.bin, self.folder / "venv" / "share")
        return {path for place in places for path in place.rglob("*")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Nothing of ours installed, nnU-Net as a regular package."""
    return Environment(tmp_path_factory.mktemp("bare"), without=())


@pytest.fixture(scope="module")
def regular(tmp_path_factory, wheel):
    """Our wheel, nnU-Net as a regular package."""
    environment = Environment(tmp_path_factory.mktemp("regular"), without=())
    environment.install(wheel)
    return environment


@pytest.fixture(scope="module")
def nnunet_source(tmp_path_factory):
    """nnU-Net's own package as a checkout that can be installed with ``pip install -e``."""
    source = tmp_path_factory.mktemp("nnunet_source")
    installed = importlib.util.find_spec("nnunetv2").submodule_search_locations[0]
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(installed, source / "nnunetv2", ignore=ignored)
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "nnunetv2"\nversion = "{importlib.metadata.version("nnunetv2")}"\n'
        '[tool.setuptools.packages.find]\ninclude = ["nnunetv2*"]\n'
    )
    return source


def our_folder(environment):
    """Where this environment keeps the file that re-exports our trainers."""
    return environment.run("amae-nnunet-doctor", "--ext_trainer").stdout.strip()


def found_trainers(environment, **variables):
    lines = environment.python(FIND_TRAINERS, **variables)
    return [line.removeprefix("FOUND ") for line in lines if line.startswith("FOUND ")]


EXPECTED = [f"{name} amae_nnunet.training.trainer" for name in TRAINERS]


# The start-up file, in this process


@pytest.fixture
def variable(monkeypatch):
    """Set nnUNet_extTrainer, run the start-up, return what it holds then."""

    def after_start_up(value, opt_out=""):
        monkeypatch.setenv(_startup.VARIABLE, value)
        monkeypatch.setenv(_startup.OPT_OUT, opt_out)
        _startup.register()
        return os.environ[_startup.VARIABLE]

    return after_start_up


def test_start_up_appends_our_folder_once(variable):
    ours = _startup.ext_trainer_folder()
    assert variable("") == ours
    assert variable(f"/a{os.pathsep}/b") == os.pathsep.join(["/a", "/b", ours])
    assert variable(f"{ours}{os.pathsep}/b") == os.pathsep.join([ours, "/b"])


@pytest.mark.parametrize(("opt_out", "registers"), [("1", False), ("yes", False), ("0", True)])
def test_start_up_obeys_the_opt_out(variable, opt_out, registers):
    assert (variable("/a", opt_out) != "/a") is registers


def test_both_start_up_files_name_the_same_function(monkeypatch):
    module, function = (ROOT / "amae_nnunet.start").read_text().strip().split(":")
    assert getattr(importlib.import_module(module), function) is _startup.register
    lines = (ROOT / "amae_nnunet.pth").read_text().splitlines()
    assert len(lines) == 1  # Python runs a .pth file line by line
    assert lines[0].startswith("import ")
    monkeypatch.setenv(_startup.VARIABLE, "/a")
    monkeypatch.setenv(_startup.OPT_OUT, "")
    exec(lines[0], {})
    assert os.environ[_startup.VARIABLE].endswith(_startup.ext_trainer_folder())


# The wheel


@pytest.mark.slow
def test_wheel_holds_the_start_up_files_the_templates_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"amae_nnunet.pth", "amae_nnunet.start", "amae_nnunet/py.typed"} <= names
    info = f"amae_nnunet-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {
        *("amae_nnunet", "amae_nnunet.pth", "amae_nnunet.start", info)
    }
    assert f"{info}/licenses/LICENSE" in names
    templates = {path.name for path in (ROOT / "nnUNet_raw_templates").iterdir()}
    assert templates
    assert {f"amae_nnunet/convert/templates/{name}" for name in templates} <= names
    data = {path for path in (ROOT / "amae_nnunet").rglob("*.*") if path.suffix in (".json", ".in")}
    assert {path.name for path in data} >= {"rules.json", "layouts.json", "report.html.in"}
    assert {path.relative_to(ROOT).as_posix() for path in data} <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "amae_nnunet").rglob("*.py")}
    assert modules <= names
    shim = {name for name in names if name.startswith("amae_nnunet/training/ext_trainer/")}
    assert len(shim) == 1  # one file, and no __init__.py
    assert not any(name.endswith(("__init__.py", ".pyc")) for name in shim)


# A regular installation


@pytest.mark.slow
def test_the_fresh_environment_owes_nothing_to_the_running_one(bare):
    assert bare.python(SHOW_VARIABLE) == ["not set"]
    look = "from importlib.util import find_spec as f; print(f('amae_nnunet'), f('torch') is None)"
    assert bare.python(look) == ["None False"]


@pytest.mark.slow
def test_installing_sets_the_variable_in_every_new_process(regular):
    ours = our_folder(regular)
    assert Path(ours) == regular.site_packages / "amae_nnunet" / "training" / "ext_trainer"
    assert regular.python(SHOW_VARIABLE) == [ours]
    assert regular.python(SHOW_VARIABLE, "-I") == [ours]


@pytest.mark.slow
def test_entries_of_the_user_stay_and_stay_first(regular):
    shown = regular.python(SHOW_VARIABLE, nnUNet_extTrainer="/mine:/theirs")
    assert shown == [f"/mine:/theirs:{our_folder(regular)}"]


@pytest.mark.slow
def test_child_processes_do_not_double_the_entry(regular):
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SHOW_VARIABLE!r}])"
    assert regular.python(code, nnUNet_extTrainer="/mine") == [f"/mine:{our_folder(regular)}"]


@pytest.mark.slow
def test_the_opt_out_leaves_the_variable_alone(regular):
    assert regular.python(SHOW_VARIABLE, AMAE_NNUNET_NO_STARTUP="1") == ["not set"]


@pytest.mark.slow
def test_start_up_imports_nothing_heavy(regular):
    code = "import sys, json; print(json.dumps(sorted(sys.modules)))"
    modules = set(json.loads(regular.python(code)[0]))
    assert "amae_nnunet._startup" in modules
    assert not modules & {"torch", "nnunetv2", "numpy"}
    ours = {name for name in modules if name.startswith("amae_nnunet")}
    assert ours == {"amae_nnunet", "amae_nnunet._startup"}


@pytest.mark.slow
def test_stock_nnunet_finds_all_trainers(regular):
    assert found_trainers(regular) == EXPECTED


@pytest.mark.slow
def test_without_the_start_up_they_are_found_with_what_the_doctor_prints(regular):
    answer = regular.run("python", "-c", FIND_TRAINERS, AMAE_NNUNET_NO_STARTUP="1")
    assert answer.returncode != 0
    assert f"Could not find requested nnunet trainer {TRAINERS[0]}" in answer.stderr

    script = regular.folder / "by_hand.sh"
    script.write_text(
        f'export nnUNet_extTrainer=$(amae-nnunet-doctor --ext_trainer)\npython -c "{FIND_TRAINERS}"'
    )
    shell = Path(shutil.which("sh"))
    answer = regular.run(shell, script, AMAE_NNUNET_NO_STARTUP="1")
    assert answer.returncode == 0, answer.stderr
    assert [f"FOUND {line}" for line in EXPECTED] == [
        line for line in answer.stdout.splitlines() if line.startswith("FOUND")
    ]


@pytest.mark.slow
def test_uninstalling_leaves_nothing(bare, wheel):
    before = bare.files()
    bare.install(wheel)
    assert bare.python(SHOW_VARIABLE) != ["not set"]
    bare.run("amae-nnunet-doctor", "--ext_trainer")  # compiles some of the modules
    assert bare.files() - before
    bare.pip("uninstall", "--yes", "amae-nnunet")
    assert bare.files() == before
    answer = bare.run("python", "-c", SHOW_VARIABLE)
    assert (answer.stdout, answer.stderr) == ("not set\n", "")


# Editable installations, of ours and of nnU-Net


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours_editable", "nnunet_editable"), [(True, False), (False, True), (True, True)]
)
def test_editable_installations_find_all_trainers(
    tmp_path, wheel, nnunet_source, ours_editable, nnunet_editable
):
    environment = Environment(tmp_path, without=(NNUNET,) if nnunet_editable else ())
    if nnunet_editable:
        environment.install("--editable", nnunet_source)
        # setuptools' own finder, which a namespace package of the same name would hide
        assert list(environment.site_packages.glob("__editable___nnunetv2_*_finder.py"))
    if ours_editable:
        environment.install("--editable", ROOT)
        assert our_folder(environment) == str(ROOT / "amae_nnunet" / "training" / "ext_trainer")
    else:
        environment.install(wheel)
    assert environment.python(SHOW_VARIABLE) == [our_folder(environment)]
    where = environment.python("import nnunetv2; print(nnunetv2.__path__[0])")
    assert (where == [str(nnunet_source / "nnunetv2")]) is nnunet_editable
    assert found_trainers(environment) == EXPECTED
