"""Find problems of a training in its losses and measured steps, with remedies."""
