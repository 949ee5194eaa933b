"""HTTP API, Prometheus metrics, probes."""
