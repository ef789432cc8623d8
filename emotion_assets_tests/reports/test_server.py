"""What the server of the pages gives away, and to whom."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from emotion_assets.reports.server import DEFAULT_PORT, listening_port, reports_app

PAGE = "<!doctype html><title>Evaluation</title>"


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    (folder / "exports" / "20261126").mkdir(parents=True)
    (folder / "exports" / "current").symlink_to("20261126")
    (folder / "evaluation.html").write_text(PAGE)
    (folder / ".feedback_reviews").write_text("0 0")
    (folder / "exports" / "20261126" / "scores.csv").write_text("text\nfine\n")
    (tmp_path / "emotion.duckdb").write_text("secret")
    (tmp_path / "outside.html").write_text("secret")
    (folder / "link.html").symlink_to(tmp_path / "outside.html")
    return folder


def client(reports: Path, url: str = "http://127.0.0.1:3001", asked: str | None = None) -> TestClient:
    return TestClient(reports_app(reports, url), base_url=asked or url)


def test_a_page_is_served_whole_and_never_stale(reports: Path) -> None:
    answer = client(reports).get("/evaluation.html")
    assert (answer.status_code, answer.text) == (200, PAGE)
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-cache"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_exports_of_now_are_served(reports: Path) -> None:
    assert client(reports).get("/exports/current/scores.csv").text == "text\nfine\n"


def test_the_first_page_names_the_others(reports: Path) -> None:
    assert '<a href="evaluation.html">' in client(reports).get("/").text


@pytest.mark.parametrize(
    "path", ["/.feedback_reviews", "/../emotion.duckdb", "/%2e%2e/outside.html", "/link.html", "/exports", "/none.html"]
)
def test_nothing_else_is_there(reports: Path, path: str) -> None:
    answer = client(reports).get(path)
    assert answer.status_code == 404
    assert "secret" not in answer.text


def test_a_foreign_name_of_this_machine_is_refused(reports: Path) -> None:
    assert client(reports, asked="http://evil.example:3001").get("/evaluation.html").status_code == 400


def test_the_name_of_the_proxy_is_answered(reports: Path) -> None:
    assert client(reports, "https://dagster.example.org/reports").get("/evaluation.html").status_code == 404
    behind = client(reports, "https://dagster.example.org/reports", "https://dagster.example.org")
    assert behind.get("/evaluation.html").status_code == 200


def test_before_the_first_report_there_is_an_empty_list(tmp_path: Path) -> None:
    assert client(tmp_path / "reports").get("/").status_code == 200
    assert client(tmp_path / "reports").get("/evaluation.html").status_code == 404


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://127.0.0.1:3007", 3007),
        ("http://localhost", 80),
        ("https://dagster.example.org:8443/reports", DEFAULT_PORT),
    ],
)
def test_the_port_is_that_of_the_address_on_this_machine(url: str, port: int) -> None:
    assert listening_port(url) == port
