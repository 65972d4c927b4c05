"""Built-in tasks on real data, one file each; `rmsprop.lab.task.BUILT_IN` lists them."""
