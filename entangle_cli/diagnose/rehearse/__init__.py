"""Takes the first real steps of a training, by TRL's own trainers on a copy."""

from importlib import import_module

from entangle_cli.data.checkpoint import quiet_libraries

with quiet_libraries():
    # transformers' trainer imports optional libraries, some of which warn that their kernels are missing.
    import_module("entangle_cli.diagnose.rehearse.trainers")
