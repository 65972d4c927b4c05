"""The command line: one file per command, with its options, its progress and its output."""
