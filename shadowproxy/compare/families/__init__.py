"""The families of metrics, a file each, with its definitions, edge cases and sources; `table` has them all."""
