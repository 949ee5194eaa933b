"""The loop: read, compare, accumulate, commit; recovery."""
