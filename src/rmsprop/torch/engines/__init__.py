"""The engines that step parameters: the native CPU kernel and tensor operations."""
