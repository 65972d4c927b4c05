"""A module per family of checkpoint files."""
