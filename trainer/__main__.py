"""``python -m trainer``: the console command, for launchers that start a module.

``python -m txl_trainer`` is the same, and also where something else called trainer is in the way.
"""

from trainer.commands.cli import main

if __name__ == "__main__":
    main()
