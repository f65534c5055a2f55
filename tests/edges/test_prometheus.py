"""Prometheus as gates ask it: every value, or why there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.edges.prometheus import Prometheus, PrometheusRefused, PrometheusSilent
from tests.edges.servers import free_port
from tests.git_servers import serving
from tests.prometheus import Guard, PrometheusServer, running_prometheus


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


def test_a_rotated_token_and_authority_are_in_force_at_the_next_question(
    server: PrometheusServer, tmp_path: Path
) -> None:
    guard, token = Guard(tmp_path), tmp_path / "token"
    token.write_text("first-word\n")
    with serving(guard):
        ca = guard.start(server.url, "first-word").ca
        gauge = Prometheus(guard.url, ca, str(token))
        assert gauge.measure("shop_waits") == (0.5,)
        shutil.copy(ca, tmp_path / "old.pem")

        guard.stop()
        guard.start(server.url, "next-word")
        with pytest.raises(PrometheusRefused, match="401") as refused:
            gauge.measure("shop_waits")
        assert "first-word" not in str(refused.value)
        token.write_text("next-word\n")
        assert gauge.measure("shop_waits") == (0.5,)
        old = Prometheus(guard.url, str(tmp_path / "old.pem"), str(token))
        with pytest.raises(PrometheusSilent, match="CERTIFICATE_VERIFY_FAILED"):
            old.measure("shop_waits")
