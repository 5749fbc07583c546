"""Packed sets beside maintained formats: what a random clip costs, and what each notices (docs/packed-format.md)."""
