"""What the project costs, measured on the machine at hand: ``make bench``, ``make bench-data``."""
