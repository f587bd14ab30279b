"""``python -m trainer``: the console command, for launchers that start a module.

``python -m txl_trainer`` does the same, even if another package called trainer comes first.
"""

from trainer.commands.cli import main

if __name__ == "__main__":
    main()
