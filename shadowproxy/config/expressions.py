"""Expressions as they stand in a configuration: JMESPath, checked when it is read."""

from __future__ import annotations

from typing import Annotated, Any

import jmespath
import jmespath.exceptions
from pydantic import BeforeValidator


def expression(text: Any) -> Any:
    """`text`, which is a JMESPath expression. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("write a JMESPath expression as a string")
    try:
        jmespath.compile(text)
    except jmespath.exceptions.JMESPathError as error:
        raise ValueError(f"{text!r} is not a JMESPath expression: {' '.join(str(error).split())}") from None
    return text


Expression = Annotated[str, BeforeValidator(expression)]
