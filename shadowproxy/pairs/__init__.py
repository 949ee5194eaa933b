"""Pair ⇄ bytes, the stream and the state in Redis, the embedded server, the recorder."""
