"""Entry point of the command `rmsprop` and of `python -m rmsprop`."""

import sys


def main() -> int:
    """Run the command line. If its packages are missing, print how to install them."""
    if sys.argv[1:] == ["--version"]:  # without these packages, too
        from rmsprop import __version__

        print(__version__)
        return 0
    try:
        from rmsprop.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("cyclopts", "rich"):
            raise
        print(f"rmsprop: the command line needs {error.name}: pip install 'rmsprop[lab]'", file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
