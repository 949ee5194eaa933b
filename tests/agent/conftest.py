"""`run_check` runs in another environment (see its requirements)."""

collect_ignore = ["run_check.py"]
