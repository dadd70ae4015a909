"""``charrnn serve``: errors before a server runs."""

from __future__ import annotations

import socket

import pytest

from tests.conftest import Charrnn, Run


def test_the_command(charrnn: Charrnn, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = charrnn("serve", run.best)
    assert (checkpoint.code, checkpoint.out) == (1, "")
    assert "charrnn export CHECKPOINT" in checkpoint.err
    monkeypatch.delenv("CHARRNN_API_KEY", raising=False)
    assert charrnn("serve", run.model, "--host", "0.0.0.0").code == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in charrnn("serve", run.model, "--port", port).err
