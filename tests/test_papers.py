"""CONTRIBUTING, ARCHITECTURE and their like name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAPERS = ["CONTRIBUTING.md", "RELEASE.md", "SECURITY.md", "docs/ARCHITECTURE.md", "runtime/README.md"]
# Files may be named from the root, or from the package that a line is about.
FOLDERS = [ROOT, *(path.parent for path in ROOT.glob("charrnn/**/__init__.py")), ROOT / "runtime" / "charrnn_runtime"]
FOLDERS += [ROOT / "runtime", ROOT / "server" / "charrnn_server", ROOT / "export" / "charrnn_export"]


@pytest.mark.parametrize("paper", PAPERS)
def test_files_that_are_named_exist(paper: str) -> None:
    named = set(re.findall(r"`([\w./-]+\.(?:py|md|toml|json|txt|js))`", (ROOT / paper).read_text("utf-8")))
    written_by_a_run = {"config.json", "metrics.jsonl"}
    missing = {
        name
        for name in named - written_by_a_run
        if "NAME" not in name and not any((folder / name).exists() for folder in FOLDERS)
    }
    assert not missing
