"""Searching settings: Optuna studies over experiments."""
