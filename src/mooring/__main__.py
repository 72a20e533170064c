"""`python -m mooring` is the command line, as `mooring` is."""

from mooring.cli.main import run

if __name__ == "__main__":
    run()
