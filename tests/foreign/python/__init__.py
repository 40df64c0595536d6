"""Python clients, each a program: `python -m tests.foreign.python.NAME PLAN`."""
