"""`python -m lab`."""

from lab import cli

if __name__ == "__main__":
    cli.main(prog_name="python -m lab")
