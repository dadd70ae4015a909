"""The import contracts in pyproject.toml fail for an import that breaks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "charrnn": ROOT / "charrnn",
    "charrnn_export": ROOT / "export" / "charrnn_export",
    "charrnn_runtime": ROOT / "runtime" / "charrnn_runtime",
    "charrnn_server": ROOT / "server" / "charrnn_server",
}
LAYERS, PARTS, NO_CIRCLE = (
    contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modules of all packages, as a folder to import from."""
    folder = tmp_path_factory.mktemp("copied")
    for name, package in PACKAGES.items():
        for module in package.rglob("*.py"):
            target = folder / name / module.relative_to(package)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(module, target)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> tuple[int, str]:
    """The exit code of ``lint-imports`` for a folder, and what it printed, on one line."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_the_packages_as_they_are(copied: Path) -> None:
    code, printed = lint(copied)
    assert code == 0, printed


@pytest.mark.parametrize(
    ("module", "planted", "broken"),
    [
        ("charrnn/runs/metrics.py", "from charrnn.training import trainer", LAYERS),
        ("charrnn/data/items.py", "def f() -> None:\n    import charrnn.cli", LAYERS),
        ("charrnn_runtime/options.py", "import charrnn_export", PARTS),
        ("charrnn_server/app.py", "import charrnn.errors", PARTS),
        ("charrnn/data/items.py", "from charrnn.data import corpus", NO_CIRCLE),
        ("charrnn_runtime/options.py", "from charrnn_runtime.sampler import Sampler", NO_CIRCLE),
    ],
)
def test_a_planted_import_is_found(copied: Path, module: str, planted: str, broken: str) -> None:
    path = copied / module
    content = path.read_text("utf-8")
    path.write_text(f"{content}\n{planted}\n", encoding="utf-8")
    try:
        code, printed = lint(copied)
    finally:
        path.write_text(content, encoding="utf-8")
    assert code == 1
    assert f"{broken} BROKEN" in printed
