"""famkern's operators: one family a file, each with its contract, reference, fake, autograd and registration."""
