"""Prometheus as gates ask it: every value, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.edges.prometheus import Prometheus, PrometheusRefused, PrometheusSilent
from tests.edges.servers import free_port
from tests.prometheus import PrometheusServer, running_prometheus


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    folder = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(folder, shop_errors=3.0, shop_waits=0.5) as found:
        found.tell("shop_errors", 4.0)
        yield found


def test_it_answers_all_values_of_a_vector_and_the_one_of_a_scalar(
    server: PrometheusServer,
) -> None:
    gauge = Prometheus(server.url)
    assert gauge.measure("shop_errors") == (4.0,)
    assert sorted(gauge.measure('{__name__=~"shop_.*"}')) == [0.5, 4.0]
    assert gauge.measure("scalar(shop_errors) * 2") == (8.0,)
    assert gauge.measure("shop_errors > 100") == (), "no data is no value"


def test_what_it_refuses_is_told_in_its_words(server: PrometheusServer) -> None:
    gauge = Prometheus(server.url)
    with pytest.raises(PrometheusRefused, match="parse error"):
        gauge.measure("sum(")
    with pytest.raises(PrometheusRefused, match="neither a vector nor a number"):
        gauge.measure("shop_errors[1m]")


def test_silence_is_no_answer(server: PrometheusServer) -> None:
    with pytest.raises(PrometheusSilent):
        Prometheus(f"http://127.0.0.1:{free_port()}", answer_s=1).measure("up")


def test_a_token_that_is_not_there_is_told(server: PrometheusServer, tmp_path: Path) -> None:
    with pytest.raises(PrometheusRefused, match=r"token in .*/gone cannot be read"):
        Prometheus(server.url, token=str(tmp_path / "gone")).measure("up")
    token = tmp_path / "token"
    token.write_text("secret-word\n")
    assert Prometheus(server.url, token=str(token)).measure("shop_waits") == (0.5,)
    with pytest.raises(PrometheusRefused) as refused:
        Prometheus(server.url, token=str(token)).measure("sum(")
    assert "secret-word" not in str(refused.value)
