"""CONTRIBUTING, ARCHITECTURE and their like name files that exist, and every module has its test file."""

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


SOURCES = {
    "charrnn": "charrnn",
    "export/charrnn_export": "export",
    "runtime/charrnn_runtime": "runtime",
    "server/charrnn_server": "server",
}
# Modules without a test file of their name, and where they are tested instead.
TESTED_IN = {
    "charrnn/__main__.py": "test_environments.py",
    "charrnn/errors.py": "test_arguments.py",
    "charrnn/events.py": "charrnn/training/test_reporting.py",
    "charrnn/version.py": "test_version.py",
    "charrnn/download.py": "charrnn/data/test_catalogue.py",
    "charrnn/data/reader.py": "charrnn/data/test_ingest.py",
    "charrnn/data/sources.py": "charrnn/data/test_ingest.py",
    "charrnn/cli/classify.py": "charrnn/cli/test_labels.py",
    "charrnn/cli/tune.py": "charrnn/test_tuning.py",
    "charrnn/inference/export.py": "charrnn/cli/test_export.py",
    "charrnn/inference/label_scores.py": "charrnn/cli/test_labels.py",
    "charrnn/inference/models.py": "charrnn/cli/test_models.py",
    "export/charrnn_export/errors.py": "export/test_parity.py",
    "export/charrnn_export/verify.py": "export/test_parity.py",
    "runtime/charrnn_runtime/classifying.py": "runtime/test_labels.py",
    "runtime/charrnn_runtime/errors.py": "runtime/test_main.py",
    "runtime/charrnn_runtime/generator.py": "runtime/test_blocks.py",
    "runtime/charrnn_runtime/block_graph.py": "runtime/test_blocks.py",
    "runtime/charrnn_runtime/draw_graph.py": "runtime/test_blocks.py",
    "runtime/charrnn_runtime/generator_graph.py": "runtime/test_blocks.py",
    "runtime/charrnn_runtime/jobs.py": "runtime/test_engine.py",
    "runtime/charrnn_runtime/onnx_graph.py": "runtime/test_blocks.py",
    "runtime/charrnn_runtime/pattern_builder.py": "runtime/test_pattern.py",
    "runtime/charrnn_runtime/pattern_syntax.py": "runtime/test_pattern.py",
    "runtime/charrnn_runtime/philox_graph.py": "runtime/test_blocks.py",
    # They are compared with what the exporter makes.
    "runtime/charrnn_runtime/sequence.py": "export/test_sequence.py",
    "runtime/charrnn_runtime/sequence_graph.py": "export/test_sequence.py",
    "runtime/charrnn_runtime/text_io.py": "runtime/test_main.py",
    "runtime/charrnn_runtime/text_scores.py": "runtime/test_main.py",
    "server/charrnn_server/errors.py": "server/test_bad_input.py",
}
# Test files that are about more than one module.
ACROSS_MODULES = {
    "charrnn/cells/test_registry.py", "charrnn/cli/test_entry_point.py", "charrnn/cli/test_items.py",
    "charrnn/cli/test_labels.py", "charrnn/cli/test_models.py",
    "charrnn/data/test_ingest.py", "charrnn/data/test_vocabulary.py",
    "charrnn/test_tuning.py", "charrnn/training/test_kill.py", "charrnn/training/test_notebook.py",
    "export/test_cells.py", "export/test_long_runs.py", "export/test_parity.py", "export/test_sequence.py",
    "runtime/test_examples.py", "runtime/test_labels.py", "runtime/test_long_texts.py",
    "runtime/test_mutations.py", "runtime/test_package.py",
    "runtime/test_processes.py", "server/test_bad_input.py", "server/test_description.py",
}  # fmt: skip


def test_every_module_has_a_test_file_of_its_name() -> None:
    tests = {path.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    without, own = set(), set()
    for source, folder in SOURCES.items():
        for path in (ROOT / source).rglob("*.py"):
            place = path.relative_to(ROOT / source).parent
            name = (Path(folder) / place / f"test_{path.stem.strip('_')}.py").as_posix()
            # One file may be for all modules of a package.
            package = (Path(folder) / place.parent / f"test_{place.name}.py").as_posix()
            own.add(name)
            if path.name != "__init__.py" and not {name, package} & tests:
                without.add(path.relative_to(ROOT).as_posix())
    assert without == TESTED_IN.keys()
    assert set(TESTED_IN.values()) <= tests
    assert {test for test in tests if test.split("/")[0] in SOURCES.values()} - own == ACROSS_MODULES
