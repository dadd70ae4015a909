"""The OpenAPI description against the server's behaviour, by property-based requests."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from charrnn_runtime import Sampler
from charrnn_server.app import DESCRIPTIONS, make_app
from charrnn_server.options import ServerOptions

from tests.server.conftest import serving

# A byte model knows every character; what a description cannot say, which tokens logit_bias may name, is a 400.
CONFIG = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 413, 429]
"""


@pytest.mark.slow
def test_nothing_is_found(bytewise: Sampler, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="no schemathesis; run: pip install 'charrnn[dev]'")
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    with serving({"bytes": bytewise}, api_key="secret", max_tokens=50) as served:
        options = ["--phases", "examples,coverage,fuzzing", "--max-examples", "3", "--seed", "1", "--no-color"]
        # A busy machine may be slow to answer, and closes a connection that was not used for a minute.
        options += ["--request-timeout", "300", "--request-retries", "2"]
        options += ["--suppress-health-check", "all", "-H", "Authorization: Bearer secret"]
        done = subprocess.run(
            [*command, "run", f"{served.url}/openapi.json", *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
        assert served.quiet()


def test_the_readme_names_every_field_and_endpoint(bytewise: Sampler) -> None:
    readme = (Path(__file__).parents[2] / "server" / "README.md").read_text("utf-8")
    described = make_app({"bytes": bytewise}, ServerOptions()).openapi()
    for path, methods in described["paths"].items():
        assert all(f"`{method.upper()} {path}`" in readme for method in methods)
    for name, body in described["components"]["schemas"].items():
        if name.endswith("Request"):
            assert [field for field in body["properties"] if f"`{field}`" not in readme] == []
    for option in (field.name for field in fields(ServerOptions) if field.name not in ("port", "api_key", "threads")):
        assert f"`--{option.replace('_', '-')}`" in readme
    for status in DESCRIPTIONS:
        assert f"{status}" in readme
