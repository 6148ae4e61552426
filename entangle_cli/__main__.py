"""`python -m entangle_cli` is the same as `entangle`."""

from entangle_cli.cli.app import main

if __name__ == "__main__":
    main()
