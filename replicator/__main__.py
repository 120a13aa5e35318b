"""The program: ``replicator``, or ``python -m replicator``."""

import gc


def main() -> None:
    """Run the command line; the program's entry point."""
    # Modules are never garbage, and scanning them again and again would take a tenth of the start. The command line
    # enables the collector when it has imported the command.
    gc.disable()
    from replicator import commands

    gc.freeze()
    commands.main()


if __name__ == "__main__":
    main()
