"""``python -m forebay.cli``: the command ``forebay``."""

from forebay.cli.main import main

if __name__ == "__main__":
    main()
