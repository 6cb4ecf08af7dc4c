"""What launch.py does, by mode: a configuration and a folder in, files out. Wiring, no method of its own."""
