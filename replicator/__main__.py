"""The program: ``replicator``, or ``python -m replicator``."""

import gc
import os


def main() -> None:
    """Run the command line; the program's entry point."""
    # Modules are never garbage, and scanning them again and again would take a tenth of the start. The command line
    # enables it when it has imported the command.
    gc.disable()
    # To look for plugins pydantic would read what every installed package says of itself.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    from replicator import commands

    commands.main()


if __name__ == "__main__":
    main()
