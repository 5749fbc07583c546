"""``python -m everest``, and so ``torchrun -m everest``."""

from everest.cli import main

if __name__ == "__main__":
    main()
