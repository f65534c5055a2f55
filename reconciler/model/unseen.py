"""Silence as a value: something that did not answer, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unseen:
    """Something that did not answer in time, and why."""

    system: str
    subject: str
    reason: str

    def __str__(self) -> str:
        return f"{self.system} {self.subject}: {self.reason}"
