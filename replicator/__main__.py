"""The program: ``replicator``, and ``python -m replicator``."""

import gc


def main() -> None:
    """Run the command line; the program's entry point.

    Nothing that is imported is ever garbage: to look through all of it again and again would take a fifth of the start.
    """
    gc.disable()
    from replicator import commands

    gc.freeze()
    gc.enable()
    commands.main()


if __name__ == "__main__":
    main()
