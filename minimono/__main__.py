"""The command `minimono`, and `python -m minimono`."""

import sys


def main() -> int:
    """Run the command line; an exit status."""
    try:
        from minimono import cli  # here, because importing the engine reads the environment
    except ValueError as error:
        print(f"minimono: {error}", file=sys.stderr)
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
