"""Frames of a video file by their number, read in a process of its own."""
