"""Data, losses, loops and evaluation, imported as famkern.training."""
