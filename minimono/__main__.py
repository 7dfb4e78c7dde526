"""The command `minimono`, and `python -m minimono`."""

import sys

from minimono import console


def main() -> int:
    """Run the command line; an exit status."""
    console.prepare()
    try:
        from minimono import cli  # here, because importing the engine reads the environment
    except ValueError as error:
        print(f"minimono: {error}", file=sys.stderr)
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
