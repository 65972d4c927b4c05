"""The commands, as functions: training (train, compare, find_lr, report), rules (explain, recipes, convert), checks."""
