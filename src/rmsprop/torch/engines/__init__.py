"""What can step a parameter: the CPU kernel, or tensor operations."""
