"""`python -m famkern.cli`: the `famkern` command."""

from . import main

main()
