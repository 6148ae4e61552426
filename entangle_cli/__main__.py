"""`python -m entangle_cli` is the same as `entangle`. The package has taken the working directory off the path."""

from entangle_cli.cli.app import main

if __name__ == "__main__":
    main()
