"""Runs on disk: their directory, and the trainings that fill it."""
