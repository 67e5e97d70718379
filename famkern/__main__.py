"""`python -m famkern`: the `famkern` command."""

from .cli import main

main()
