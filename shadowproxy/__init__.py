"""shadowproxy: compare a candidate model with the one in service on the traffic it really gets."""

__version__ = "0.1.0.dev0"
