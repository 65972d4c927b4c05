"""The main module of processes that a program under `rmsprop run` spawns."""

from rmsprop.cli.script import in_spawned

in_spawned(globals())
