"""Prometheus, asked for the values of expressions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.model.errors import ReconcilerError

ANSWER_S = 5.0
VALUES_MAX = 1_000


class PrometheusSilent(ReconcilerError):
    """Prometheus gave no answer. A gate that cannot be asked did not hold: the roll-out waits."""

    code = "PM101"
    transient = True


class PrometheusRefused(ReconcilerError):
    """Prometheus refused an expression, or who asks.

    `promtool check` and Prometheus's own page tell what is wrong with an expression; its values
    have to be numbers (a vector or a scalar).
    """

    code = "PM102"


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server at ``url``, trusted by the file ``ca``, who asks with the token in a file.

    Both files are read for each question, so that what was rotated is in force.
    """

    url: str
    ca: str = ""
    token: str = ""
    answer_s: float = ANSWER_S

    def measure(self, text: str) -> tuple[float, ...]:
        """Return all values of an expression now. Raises PrometheusSilent, PrometheusRefused."""
        import requests
        from prometheus_api_client import PrometheusConnect
        from prometheus_api_client.exceptions import PrometheusApiClientException
        from urllib3.util import Retry

        subject = f"Prometheus {self.url}"
        with requests.Session() as session:
            session.trust_env = False  # a .netrc or a proxy of the shell has no say
            session.verify = self.ca or True
            client = PrometheusConnect(
                self.url.rstrip("/"), self._headers(subject), session=session,
                retry=Retry(total=0), timeout=self.answer_s, method="POST",
            )  # fmt: skip
            try:
                found = client.custom_query(text)
            except (requests.RequestException, OSError) as error:
                raise PrometheusSilent(subject, _words(error), remedy="look at it") from None
            except PrometheusApiClientException as error:
                raise PrometheusRefused(subject, _words(error)) from None
            except (KeyError, TypeError, ValueError) as error:
                raise PrometheusRefused(subject, f"is no Prometheus: {error!r}") from None
        return _values(found, subject)

    def _headers(self, subject: str) -> dict[str, str]:
        if not self.token:
            return {}
        try:
            return {"Authorization": f"Bearer {Path(self.token).read_text().strip()}"}
        except OSError as error:
            problem = f"the token in {self.token} cannot be read: {error.strerror}"
            raise PrometheusRefused(subject, problem) from None


def _values(found: Any, subject: str) -> tuple[float, ...]:
    """Return the numbers of a vector (a list of samples) or of a scalar (a time and a value)."""
    try:
        if found and not isinstance(found[0], dict):
            return (float(found[1]),)
        if len(found) > VALUES_MAX:
            raise PrometheusRefused(subject, f"it answered more than {VALUES_MAX} values")
        return tuple(float(sample["value"][1]) for sample in found)
    except (KeyError, IndexError, TypeError, ValueError):
        raise PrometheusRefused(subject, "its answer is neither a vector nor a number") from None


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
