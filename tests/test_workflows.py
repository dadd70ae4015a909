"""The workflows and forms for GitHub hold their public schemas, and name only what this repository has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCHEMAS = {
    "vendor.github-workflows": WORKFLOWS,
    "vendor.dependabot": [ROOT / ".github" / "dependabot.yml"],
    "vendor.github-issue-config": [ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml"],
    "vendor.github-issue-forms": sorted(
        path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"
    ),
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_for_github_hold_their_schemas(schema: str, capsys: pytest.CaptureFixture[str]) -> None:
    from check_jsonschema import main

    assert SCHEMAS[schema]
    with pytest.raises(SystemExit) as ended:
        main(["--builtin-schema", schema, *map(str, SCHEMAS[schema])])
    assert ended.value.code == 0, capsys.readouterr().out


def test_workflows_name_targets_files_and_extras_that_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    extras = set(re.findall(r"^([a-z]+) = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE))
    text = "\n".join(path.read_text("utf-8") for path in WORKFLOWS)
    commands = "\n".join(re.findall(r"run: (?:\|\n)?(.*)", text))
    wanted = set(re.findall(r"\bmake ([\w-]+)", commands))
    assert {"check", "test", "web-test", "release-check"} <= wanted <= targets
    assert set(re.findall(r'"\.\[(\w+)\]"', commands)) <= extras
    named = set(re.findall(r"[\w./-]+\.(?:py|md|txt|json)\b", text))
    assert {name for name in named if not (ROOT / name).exists()} <= {"notes.md"}
    assert all((ROOT / folder).is_dir() for folder in re.findall(r"working-directory: (\S+)", text))


def test_the_release_finds_the_version_and_its_changes() -> None:
    """What the release workflow looks for with grep and awk stands in these files in this form."""
    version = re.search(
        r'^__version__ = "([\d.]+)"$', (ROOT / "charrnn" / "version.py").read_text("utf-8"), re.MULTILINE
    )
    assert version is not None
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    headings = re.findall(r"^## (.+)$", changes, re.MULTILINE)
    assert re.fullmatch(rf"{re.escape(version[1])} \((\d{{4}}-\d\d-\d\d|unreleased)\)", headings[0])
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)", heading) for heading in headings[1:])
