"""Texts of a certain form, whose rule is told as a sentence."""

import re

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError


def matching(pattern: str, sentence: str) -> AfterValidator:
    """For ``Annotated[str, matching(…)]``; ``sentence`` goes on after the setting and its value."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise PydanticCustomError("form", sentence)
        return text

    return AfterValidator(check)
