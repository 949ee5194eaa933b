"""PURE: one statistic per file, each additive: states are arrays, and merging is addition."""
