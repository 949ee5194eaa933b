"""HTTP in, Pair out: listener, upstream pools, mirror admission, capture, redaction."""
