"""What the settings of all networks have in common: to JSON and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeVar

Config = TypeVar("Config", bound="Settings")


@dataclass(frozen=True)
class Settings:
    """Base of the frozen dataclasses that describe networks."""

    @classmethod
    def from_dict(cls: type[Config], settings: dict[str, Any]) -> Config:
        """The inverse of `to_dict` (JSON lists become tuples); unknown keys raise TypeError."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()
        }
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready settings."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
