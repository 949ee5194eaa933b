"""The decision benchmark: error rates and pairs to a decision, of shadowproxy and of what others decide by."""

from bench.decisions.running import run

__all__ = ["run"]
