"""The loop: read, compare, accumulate, commit; recovery."""

from shadowproxy.comparator.worker import Worker

__all__ = ["Worker"]
