"""Built-in tasks on real data, one file each; the table in `rmsprop.lab_tasks` describes them."""
