"""What guardrails count of every pair, and what their sums say: one file for each kind of them."""
