"""The checks of the Scientific Python development guide."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sp_repo_review", reason="comes with the extra dev")
ROOT = Path(__file__).parents[1]


def test_sixty_checks_pass():
    command = [sys.executable, "-m", "repo_review", str(ROOT), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    checks = json.loads(done.stdout)["checks"]
    failed = [name for name, check in checks.items() if check["result"] is False]
    passed = [name for name, check in checks.items() if check["result"] is True]
    assert len(passed) >= 60, f"{len(passed)} pass, {', '.join(failed)} fail"
