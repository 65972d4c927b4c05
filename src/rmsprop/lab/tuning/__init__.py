"""Search for a rule: the space, the samplers, the queue of trials, the workers, the verdict."""
