"""``python -m trainer``: the console command, for launchers that start a module."""

from trainer.cli import main

if __name__ == "__main__":
    main()
