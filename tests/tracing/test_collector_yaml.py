"""The collector's example: its parts fit together, and what it scrapes is what Prometheus would."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml
from programs import program

DEPLOYED = Path(__file__).parent.parent.parent / "deploy"
CONFIG = yaml.safe_load((DEPLOYED / "otel" / "collector.yaml").read_text())
SCRAPED = CONFIG["receivers"]["prometheus"]["config"]


def test_pipelines_are_of_what_is_configured_and_nothing_is_left_over() -> None:
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in CONFIG["service"]["pipelines"].values() for name in pipeline[kind]}
        assert used == set(CONFIG[kind])
    assert all(pipeline["processors"][0] == "memory_limiter" for pipeline in CONFIG["service"]["pipelines"].values())


def test_what_is_scraped_is_a_configuration_of_prometheus(tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump(SCRAPED))
    done = subprocess.run([program("promtool"), "check", "config", str(config)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (job,) = SCRAPED["scrape_configs"]
    (other,) = yaml.safe_load((DEPLOYED / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == other["static_configs"]


def test_spans_are_taken_where_the_documents_send_them() -> None:
    address = CONFIG["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert f"endpoint: http://{address}" in (DEPLOYED.parent / "docs" / "tracing.md").read_text()
