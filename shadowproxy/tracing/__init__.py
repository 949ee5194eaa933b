"""Spans of mirrored requests, made from their pairs after the fact, for an OpenTelemetry collector."""
