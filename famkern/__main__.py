"""The `famkern` command, which is also `python -m famkern`."""

from . import interruption


def main() -> None:
    """Run the command line, which can be interrupted before it is imported."""
    interruption.at_once()
    from . import cli

    cli.main()


if __name__ == "__main__":
    main()
