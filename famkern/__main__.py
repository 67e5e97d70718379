"""The `famkern` command, which is also `python -m famkern`."""

from . import interrupts


def main() -> None:
    """Run the command line."""
    interrupts.end_at_once()  # before the imports, which take a while
    from .cli import main as run

    run()


if __name__ == "__main__":
    main()
