"""Published trainings: `recipe` returns one by name, `RECIPES` has all of them."""

from rmsprop.recipes.catalogue import RECIPES, recipe
from rmsprop.recipes.clip import Clip
from rmsprop.recipes.torch_parts import Training
from rmsprop.recipes.training_recipe import Recipe

__all__ = ["RECIPES", "Clip", "Recipe", "Training", "recipe"]
