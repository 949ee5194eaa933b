"""PURE: guardrails as data, the decision, its reasons."""
