"""The methods of choosing tokens, a row each; what each does is in a file of its name in ``everest/model/masks/``."""

from typing import Literal, NamedTuple


class Method(NamedTuple):
    """``ranks``: it orders all tokens, the first ones are kept, and chance says which of these are visible.

    The others say themselves what is visible and what is hidden; such a method shows or hides whole tubes (a place in
    all steps) or whole steps. ``all_hidden``: it reconstructs whatever is not visible.
    """

    keep_ratio: float = 0.3
    visible_ratio: float = 0.1
    ranks: bool = True
    by_chance: bool = False
    shows: Literal["tokens", "tubes", "steps"] = "tokens"
    all_hidden: bool = False


METHODS: dict[str, Method] = {
    "rero": Method(),  # EVEREST, section 3.2
    "least": Method(),  # EVEREST, ascending order
    "pixel": Method(),  # run-length tokenization, of a fixed number
    "residual": Method(),  # rero, against the camera's motion
    "running_cell": Method(by_chance=True),  # MAR
    "random": Method(keep_ratio=1.0, by_chance=True),  # MAE as spatiotemporal learner
    "tube": Method(keep_ratio=1.0, ranks=False, shows="tubes", all_hidden=True),  # VideoMAE
    "frame": Method(keep_ratio=1.0, ranks=False, shows="steps", all_hidden=True),
    "dual": Method(keep_ratio=0.55, ranks=False, shows="tubes"),  # VideoMAE V2
}
#: Those that a classifier can keep tokens by; ``all`` takes every one.
CLASSIFY_METHODS = (*(name for name, method in METHODS.items() if method.ranks), "all")
