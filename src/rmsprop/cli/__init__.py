"""The command line: a file for each command, with its options, its progress and its table."""
