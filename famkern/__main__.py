"""The `famkern` command, which is also `python -m famkern`."""

import gc

from . import interruption


def main() -> None:
    """Run the command line, which can be interrupted before it is imported."""
    interruption.at_once()
    gc.disable()  # until the command is imported: there is nothing to be collected, and to search takes time
    from . import cli

    cli.main()


if __name__ == "__main__":
    main()
