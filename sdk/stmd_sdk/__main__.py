"""``python -m stmd_sdk`` is ``stmd``."""

from .cli.app import main

if __name__ == "__main__":
    main()
