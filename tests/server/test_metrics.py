"""What the server reports to Prometheus."""

from __future__ import annotations

from tests.server.conftest import Served


def test_requests_characters_and_times_are_counted(server: Served) -> None:
    server.complete(max_tokens=30)
    with server.client() as client:
        metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in metrics.text.splitlines() if not line.startswith("#"))
    assert float(values['charrnn_requests_total{path="/v1/completions",status="200"}']) >= 1
    assert float(values['charrnn_characters_drawn_total{model="tiny"}']) >= 30
    assert float(values['charrnn_time_to_first_character_seconds_bucket{le="+Inf",model="tiny"}']) >= 1
    for name in ("charrnn_active_streams", "charrnn_queue_length"):
        assert float(values[f'{name}{{model="tiny"}}']) == 0
