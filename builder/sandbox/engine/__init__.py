"""System calls of a step answered by us: recorded ownership, passed-through trees, translated paths."""
