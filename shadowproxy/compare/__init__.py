"""PURE: from pairs to columns of numbers; extraction, and one file per family of metrics."""
