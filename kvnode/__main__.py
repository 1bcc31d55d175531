"""`python -m kvnode` is the command `kvnode`."""

from kvnode.cli import main

if __name__ == "__main__":
    main()
