"""`python -m mlxspec` is `mlxspec`."""

from mlxspec.cli import main

if __name__ == "__main__":
    main()
