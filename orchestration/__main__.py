"""``python -m orchestration``, the same as ``everest-jobs``."""

from orchestration.cli import main

if __name__ == "__main__":
    main()
