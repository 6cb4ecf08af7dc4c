"""Experiments: each file gives a ConfigDict, and its docstring the command and the expected numbers."""
