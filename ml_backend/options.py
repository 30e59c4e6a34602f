"""What a project may say about its masks in the backend's extra parameters."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, model_validator

from workers.contract import Rules


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Options(Rules):
    """The extra parameters, beside the rules of cleaning, which they may change too."""

    expression_field: str | None = None
    """The key of the task's data that holds the expression; without it the labeling config says where it is."""
    control: Annotated[tuple[str, ...], BeforeValidator(_several)] = ()
    """The controls that masks go to, of those that the labeling config has, and which of them comes first."""
    instances: bool | None = None
    """Whether each connected part of a mask is a region of its own; unless said, it is for polygons and boxes alone."""
    rotated: bool = False
    """Whether a box is turned to fit more closely."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, sent: Any) -> Any:
        if isinstance(sent, dict):
            for name in sent:
                if name not in cls.model_fields:
                    near = difflib.get_close_matches(str(name), cls.model_fields, n=1, cutoff=0)
                    raise ValueError(f'there is no option "{name}", perhaps "{near[0]}" is meant')
        return sent

    @property
    def rules(self) -> Rules | None:
        """The rules of cleaning, where they are not ours."""
        rules = Rules(**{name: getattr(self, name) for name in Rules.model_fields})
        return None if rules == Rules() else rules

    def to_keep(self) -> str | None:
        """Write down what differs from an empty set of options.

        Returns:
            JSON, or None if nothing does.
        """
        return None if self == Options() else self.model_dump_json(exclude_defaults=True)

    @classmethod
    def kept(cls, text: str | None) -> Self:
        """Read what `to_keep` wrote.

        Args:
            text: JSON, or None.

        Returns:
            The options.
        """
        return cls() if text is None else cls.model_validate_json(text)
