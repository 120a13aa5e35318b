"""The program: ``replicator``, or ``python -m replicator``."""

import gc


def main() -> None:
    """Run the command line; the program's entry point."""
    # Imported modules are never garbage, and scanning them again and again would take a fifth of the start.
    gc.disable()
    from replicator import commands

    gc.freeze()
    gc.enable()
    commands.main()


if __name__ == "__main__":
    main()
