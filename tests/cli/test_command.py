import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from amae_nnunet.cli.command import device_kind, new_parser, run
from amae_nnunet.errors import EXIT_CODES, AMAEError, CheckpointError, ConfigError, InputError


@pytest.mark.parametrize(
    ("error", "code"),
    [(AMAEError("x"), 1), (ConfigError("x"), 2), (InputError("x"), 3), (CheckpointError("x"), 5),
     (KeyboardInterrupt(), 130)],
)  # fmt: skip
def test_an_error_of_the_users_is_one_line_and_its_code(error, code, capsys):
    def body(_args):
        raise error

    assert run(new_parser("tool", "does things"), body, []) == code
    assert capsys.readouterr().err.count("\n") == 1
    assert code in EXIT_CODES


def test_sigterm_ends_a_command_as_ctrl_c_does(capsys):
    cleaned = []

    def body(_args):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert run(new_parser("tool", "does things"), body, []) == 143
    assert capsys.readouterr().err == "tool: stopped by SIGTERM\n"
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_unexpected_error_keeps_its_traceback():
    def body(_args):
        raise KeyError("surprise")

    with pytest.raises(KeyError):
        run(new_parser("tool", "does things"), body, [])


def test_help_lists_the_exit_codes_and_options_may_stand_among_positionals(capsys):
    parser = new_parser("tool", "does things")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--name")
    seen = []
    assert run(parser, seen.append, ["a", "--name", "n", "b"]) == 0
    assert (seen[0].words, seen[0].name) == (["a", "b"], "n")
    with pytest.raises(SystemExit):
        run(parser, seen.append, ["--help"])
    assert "wrong or unsafe checkpoint" in capsys.readouterr().out


def codes_in_help(command):
    """The exit codes that the help of a command lists, and what they mean."""
    tool = Path(sys.executable).parent / f"amae-nnunet-{command}"
    text = subprocess.run([tool, "--help"], capture_output=True, text=True).stdout
    table = text.partition("exit codes:\n")[2]
    return {int(code): meaning for code, meaning in re.findall(r"^ +(\d+)  (.+)$", table, re.M)}


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("predict", {3, 4, 5, 6}),
        ("evaluate", {3, 4, 5}),
        ("pretrain", {3, 5}),
        ("show", {3, 5}),
        ("phantom", set()),
    ],
)
def test_help_lists_the_exit_codes_of_its_own_command_only(command, more):
    found = codes_in_help(command)
    assert set(found) == {0, 1, 2, 130, 141, 143} | more
    assert found == {code: EXIT_CODES[code] for code in found}


def test_the_doctor_explains_its_own_exit_codes():
    found = codes_in_help("doctor")
    assert set(found) == {0, 1, 2, 3, 130, 141, 143}
    assert found[3] == "a check failed: its line says how to mend it"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("lambda a: print('line\\n' * 100000)", 141),  # it writes when the reader has gone
        ("lambda a: print('line')", 0),  # all is done
    ],
)
def test_a_reader_that_stops_early_is_no_error_but_unfinished_work_is_not_success(body, code):
    script = (
        "import sys; from amae_nnunet.cli.command import new_parser, run\n"
        f"sys.exit(run(new_parser('t', ''), {body}, []))"
    )
    tool = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    tool.stdout.readline()
    tool.stdout.close()
    assert tool.stderr.read() == b""
    tool.stderr.close()
    assert tool.wait() == code


def test_a_place_that_cannot_be_is_one_line(tmp_path, capsys):
    file, loop = tmp_path / "file", tmp_path / "loop"
    file.touch()
    loop.symlink_to(loop)
    for body, said in (
        (lambda _: file.mkdir(), "a file is where a folder should be"),
        (lambda _: (file / "x").mkdir(), "a file is where a folder should be"),
        (lambda _: (loop / "x").mkdir(), "a link leads to itself"),
        (lambda _: tmp_path.write_text("x"), "a folder is where a file should be"),
    ):
        assert run(new_parser("tool", "does things"), body, []) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_named(kind):
    if device_kind(None) != "cpu":
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match=f"-device {kind}: PyTorch .* finds none here"):
        device_kind(kind)
    assert device_kind("cpu") == "cpu"


def test_commands_refuse_a_device_that_is_not_there(pretrained, tmp_path, capsys):
    from amae_nnunet.cli import pretrain, show

    if torch.cuda.is_available():
        pytest.skip("there is one")
    words = [str(pretrained), "any", "-d", "950", "-c", "tiny", "-p", "AMAEPlans"]
    assert show.main([*words, "-o", str(tmp_path), "-device", "cuda"]) == 2
    words = ["950", "tiny", "-p", "AMAEPlans", "--c", "-device", "cuda"]
    assert pretrain.main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert ["finds none here" in line for line in said if "error:" in line] == [True, True]
