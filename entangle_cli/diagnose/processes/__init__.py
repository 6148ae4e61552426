"""One scan by the processes of a torchrun."""
