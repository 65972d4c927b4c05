"""Runs on disk: their directories, and the trainings recorded there."""
