"""The version stands once in each distribution, and all distributions have the same one."""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path

import charrnn_runtime

import charrnn

ROOT = Path(__file__).parents[1]


def test_all_distributions_have_one_version() -> None:
    package = json.loads((ROOT / "runtime" / "js" / "package.json").read_text("utf-8"))
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None
    versions = {charrnn.__version__, charrnn_runtime.__version__, package["version"], newest[1]}
    versions |= {importlib.metadata.version(name) for name in ("charrnn", "charrnn-runtime")}
    assert len(versions) == 1


def test_the_trainer_asks_for_the_runtime_of_its_own_version() -> None:
    minor = ".".join(charrnn.__version__.split(".")[:2])
    wanted = [name for name in importlib.metadata.requires("charrnn") or [] if name.startswith("charrnn-runtime")]
    assert any(f">={minor}" in name for name in wanted)
