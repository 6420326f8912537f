"""`python -m taming VERB ...` is the console script `taming VERB ...`."""

from taming.cli.main import entry

if __name__ == "__main__":
    entry()
