"""PURE: a verdict as a terminal table and as Markdown."""
