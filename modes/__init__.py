"""The modes of launch.py: functions of a configuration, a folder and the flags of the mode, which write files."""
