"""What a training's losses and measured steps say about it, with remedies."""
