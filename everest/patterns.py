"""Values of a certain form, whose rule is told as a sentence."""

import re
from typing import Any

from pydantic import AfterValidator, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError


def matching(pattern: str, sentence: str) -> AfterValidator:
    """For ``Annotated[str, matching(…)]``; ``sentence`` goes on after the setting and its value."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise PydanticCustomError("form", sentence)
        return text

    return AfterValidator(check)


def told(sentence: str) -> WrapValidator:
    """For ``Annotated[A | B, told(…)]``: one rule for all of them, which goes on after the setting and its value."""

    def check(value: Any, usual: ValidatorFunctionWrapHandler) -> Any:
        try:
            return usual(value)
        except ValidationError:
            raise PydanticCustomError("form", sentence) from None

    return WrapValidator(check)
