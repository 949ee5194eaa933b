"""Whole documents: their values by path, how two differ, and what must hold of one."""
