"""The `famkern` command, which is also `python -m famkern`."""

import gc

from . import interruption


def main() -> None:
    """Run the command line, which can be interrupted before it is imported."""
    interruption.at_once()
    gc.disable()  # until the command is imported: there is nothing to be collected, and to search takes time
    from . import cli

    try:
        cli.main()
    finally:
        gc.freeze()  # what is left goes with the process; to search it for garbage takes as long as to import it


if __name__ == "__main__":
    main()
