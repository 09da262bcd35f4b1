"""Who may read, under which name, and what the browser is told: before any page is made."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from fl_server.dashboard.guard import COOKIE, HEADERS, host_name, is_loopback
from fl_server.dashboard.sources import Sources
from tests.fl_server.dashboard.conftest import client_of

TOKEN = "a-token-of-more-than-sixteen-letters"
PATHS = ("/", "/run/trained", "/live.json", "/static/style.css", "/nowhere", "/pool?q=x")


@pytest.fixture
def guarded(sources: Sources) -> TestClient:
    return client_of(sources, TOKEN)


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_the_headers(client: TestClient, path: str) -> None:
    found = client.get(path).headers
    assert {name: found[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in found["content-security-policy"]
    assert found["content-security-policy"].startswith("default-src 'none';")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", PATHS)
def test_nothing_but_reading(client: TestClient, method: str, path: str) -> None:
    found = client.request(method, path)
    assert (found.status_code, found.headers["allow"]) == (405, "GET, HEAD")
    assert found.text == "the dashboard only reads: GET and HEAD\n"


def test_head_is_answered(client: TestClient) -> None:
    assert client.head("/").status_code == 200
    assert client.head("/nowhere").status_code == 404


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8470", "[::1]:8470"])
def test_known_hosts(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8470", "localhost.evil", "", "a:b:"]
)
def test_a_name_that_points_here_is_refused(client: TestClient, host: str) -> None:
    found = client.get("/", headers={"Host": host})
    assert found.status_code == 421
    assert found.text == "unknown host: open the address that fedprint printed\n"


def test_long_addresses_are_refused(client: TestClient) -> None:
    assert client.get("/pool?q=" + "x" * 5000).status_code == 414


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_there_is_nothing(guarded: TestClient, path: str) -> None:
    found = guarded.get(path)
    assert found.status_code == 401
    assert "This dashboard wants a token" in found.text
    assert "trained" not in found.text


def test_the_token_becomes_a_cookie(guarded: TestClient) -> None:
    found = guarded.get("/pool", params={"q": "x y", "token": TOKEN})
    assert (found.status_code, found.headers["location"]) == (303, "/pool?q=x+y")
    cookie = found.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert guarded.get("/pool?q=x+y").status_code == 200


def test_the_way_on_never_leads_elsewhere(guarded: TestClient) -> None:
    found = guarded.get("http://localhost:8470//evil.example/", params={"token": TOKEN})
    assert found.headers["location"] == "/evil.example/"


@pytest.mark.parametrize("given", ["", "x", TOKEN[:-1], TOKEN + "x", "é" * 20])
def test_wrong_tokens_are_refused(guarded: TestClient, given: str) -> None:
    assert guarded.get("/", params={"token": given}).status_code == 401
    assert guarded.get("/", headers={"Cookie": f"{COOKIE}=x"}).status_code == 401
    assert guarded.get("/", headers={"Authorization": "Bearer x"}).status_code == 401


def test_two_tokens_are_one_too_many(guarded: TestClient) -> None:
    assert guarded.get(f"/?token={TOKEN}&token=x").status_code == 401


def test_programs_may_send_it_in_a_header(guarded: TestClient) -> None:
    found = guarded.get("/live.json", headers={"Authorization": f"Bearer {TOKEN}"})
    assert found.status_code == 200


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("A.b:1", "a.b"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("a", "a"),
        ("[::1", ""),
        ("[::1].evil.example", ""),
        ("[::1].evil.example:80", ""),
    ],
)
def test_host_names(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a", False)],
)
def test_what_is_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
