"""The sub-commands: each module has `run(argv, environ) -> int`."""
