"""What can be wrong with a video."""


class DecodeError(Exception):
    """A video that cannot be read; the message is the reason, in one line."""
