"""Published trainings by name: `recipe` returns one, `RECIPES` has them all."""

from rmsprop.recipes.catalogue import RECIPES, recipe
from rmsprop.recipes.training_recipe import Clip, Recipe, Training

__all__ = ["RECIPES", "Clip", "Recipe", "Training", "recipe"]
