#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""Checks, each in an environment of its own: ``nox`` for all that are quick, ``nox -s slow`` ...

``scripts/test.sh`` runs the same in one environment, and is what CI runs.
"""

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"


@nox.session
def style(session: nox.Session) -> None:
    """Style and types."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session(python=["3.10", "3.11", "3.12", "3.13"], default=False)
def tests(session: nox.Session) -> None:
    """The fast tests, or those that are named: ``nox -s tests-3.12 -- tests/convert``."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session(default=False)
def slow(session: nox.Session) -> None:
    """The end-to-end tests."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "slow", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session(default=False)
def dependencies(session: nox.Session) -> None:
    """The lowest and the newest versions of all dependencies."""
    session.run("bash", "scripts/test_dependencies.sh", external=True)


if __name__ == "__main__":
    nox.main()
