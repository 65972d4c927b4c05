"""Built-in tasks on real data, one file each; `rmsprop.lab_options.TASKS` lists them."""
