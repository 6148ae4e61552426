"""One scan distributed over the processes of torchrun."""
