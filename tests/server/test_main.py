"""The server's own command, and its options on both command lines."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from charrnn_runtime import Sampler, Vocabulary
from charrnn_server.__main__ import _parser
from charrnn_server.options import ServerOptions

from tests.conftest import Charrnn, Run
from tests.runtime.conftest import WITHOUT_TRAINER, TinyModel
from tests.server.conftest import post


def test_the_server_runs_where_no_torch_is(tmp_path: Path) -> None:
    code = WITHOUT_TRAINER + "from charrnn_server.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
    path = tmp_path / "own.onnx"
    path.write_bytes(TinyModel(Vocabulary.from_text("\n abc")).data())
    command = [sys.executable, "-c", code, str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            status, answer = asyncio.run(post(url, {"model": "own", "max_tokens": 30, "seed": 1}))
        finally:
            process.terminate()
    assert (status, json.loads(answer)["choices"][0]["text"]) == (200, Sampler(path).sample(length=30, seed=1))


def test_both_command_lines_have_every_option(monkeypatch: pytest.MonkeyPatch, charrnn: Charrnn, run: Run) -> None:
    values: dict[str, Any] = {
        "host": "::1", "port": 1234, "api_key": "secret", "public": True, "allow_host": ("a.example", "*.b.example:80"),
        "allow_origin": ("https://a.example", "*"), "streams": 3, "queue": 0, "max_prompt": 5, "max_tokens": 6,
        "max_choices": 7, "max_particles": 9, "stall": 8, "threads": 2,
    }  # fmt: skip
    assert set(values) == {field.name for field in fields(ServerOptions)}
    wanted = ServerOptions(**values)
    arguments: list[str] = []
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        for item in value if isinstance(value, tuple) else [value]:
            arguments += [option] if item is True else [option, str(item)]
    served: list[Any] = []
    monkeypatch.setattr("charrnn_server.serve.serve", lambda models, options: served.append((models, options)))
    assert charrnn("serve", run.model, *arguments).code == 0
    assert charrnn("serve", run.model).code == 0
    monkeypatch.setenv("CHARRNN_API_KEY", "from the environment")
    assert charrnn("serve", run.model).code == 0
    assert served == [
        ([run.model], wanted),
        ([run.model], ServerOptions()),
        ([run.model], ServerOptions(api_key="from the environment")),
    ]
    parsed = vars(_parser().parse_args([str(run.model), *arguments]))
    assert parsed.pop("models") == [str(run.model)]
    assert ServerOptions.from_command_line(parsed) == wanted
    parsed = vars(_parser().parse_args([str(run.model)]))
    del parsed["models"]
    assert ServerOptions.from_command_line(parsed).api_key == "from the environment"
