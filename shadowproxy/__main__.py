"""`python -m shadowproxy`: the same as the `shadowproxy` command."""

from shadowproxy.cli import main

if __name__ == "__main__":
    main()
