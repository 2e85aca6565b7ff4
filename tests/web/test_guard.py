"""Who may use the page: each test is an attack of another user of this machine, or of a web site in the same browser."""

from __future__ import annotations

import socket
from dataclasses import replace
from http.cookies import SimpleCookie

import pytest

from oneflower.web import server
from oneflower.web.guard import COOKIE, CSRF_FIELD, CSRF_HEADER, MOST_BYTES
from oneflower_appliance.errors import OneflowerError
from tests.web.conftest import FOREIGN, STATUS


def enter(visitor, token, **headers):
    return visitor.post("/enter", data={"token": token}, headers=headers)


def test_the_address_opens_the_page_once_and_its_cookie_is_for_this_page_alone(fake):
    visitor = fake.visitor(origin=fake.keys.origin)
    assert fake.keys.address.startswith(f"{fake.keys.origin}/enter#"), "a browser does not send what follows #"
    token = fake.keys.address.partition("#")[2]
    assert token not in repr(fake.keys)
    assert visitor.get("/enter").status_code == 200
    assert visitor.get("/").status_code == 403
    answer = enter(visitor, token)
    assert answer.status_code == 204
    cookie = SimpleCookie(answer.headers["set-cookie"])[COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["domain"]) == (True, "strict", "")
    assert visitor.get("/").status_code == 200
    assert enter(fake.visitor(origin=fake.keys.origin), token).status_code == 403, "another user who saw the address"


@pytest.mark.parametrize("token", ["", "x", "é"])
def test_a_wrong_token_opens_nothing(fake, token):
    assert enter(fake.visitor(origin=fake.keys.origin), token).status_code == 403
    fake.keys.token = ""
    assert enter(fake.visitor(origin=fake.keys.origin), "").status_code == 403


@pytest.mark.parametrize("cookie", ["", f"{COOKIE}=", f"{COOKIE}=x", f"{COOKIE}=\xe9", "=;;=", "\x01"])
def test_another_user_of_this_machine_sees_nothing(fake, cookie):
    for path in ("/", "/new", "/federations/7", "/federations/7/events", "/jobs/1", "/nothing"):
        answer = fake.visitor(cookie=cookie.encode("latin-1")).get(path)
        assert (answer.status_code, "ui" in answer.text) == (403, True)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1:7420", "localhost:7420", "{name}", "{name}:80", "{name}.evil.example:7420", ""]
)
def test_a_site_whose_name_resolves_to_the_loopback_gets_nothing(fake, host):
    person = fake.person(host=host.format(name=fake.keys.name))
    for path in ("/", "/enter", "/static/page.css"):
        assert person.get(path).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_can_read_nothing_even_with_the_cookie(fake, site):
    assert fake.person(**{"sec-fetch-site": site}).get("/").status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://127.0.0.1:7420", "https://{host}"])
def test_another_site_can_change_nothing_even_with_cookie_and_csrf_token(fake, origin):
    for path in ("/enter", "/new"):
        person = fake.person(origin=origin.format(host=fake.keys.host))
        assert person.post(path, data={CSRF_FIELD: fake.keys.csrf, "token": fake.keys.token}).status_code == 403
    assert fake.keys.token


def test_a_request_without_the_csrf_token_changes_nothing(fake):
    person = fake.person()
    for wrong in ({}, {CSRF_FIELD: ""}, {CSRF_FIELD: "x"}):
        assert person.post("/nothing", data=wrong).status_code == 403
    assert person.post("/nothing", data={CSRF_FIELD: fake.keys.csrf}).status_code == 404
    assert person.post("/nothing", headers={CSRF_HEADER: fake.keys.csrf}).status_code == 404


def test_what_is_no_form_of_ours_is_refused(fake):
    person = fake.person()
    assert person.post("/new", content=b"x" * (MOST_BYTES + 1)).status_code == 413
    assert person.post("/new", content=b"\xff=1").status_code == 400
    assert person.post("/new", json={"name": "x"}).status_code == 400
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert person.request(method, "/").status_code == 405


def test_every_answer_forbids_inline_code_frames_and_guessing(fake):
    person, visitor = fake.person(), fake.visitor()
    for who, path in ((person, "/"), (person, "/nothing"), (visitor, "/"), (visitor, "/static/page.css")):
        headers = who.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
        assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert ("no-store" in headers.get("cache-control", "")) is not path.startswith("/static/")


def test_the_page_runs_no_inline_code_and_loads_nothing_from_elsewhere(fake):
    fake.federation()
    for path in ("/", "/enter", "/nothing"):
        text = fake.person().get(path).text
        for forbidden in ("<style", " style=", "onclick", "javascript:", "http://", "https://", "hx-on"):
            assert forbidden not in text.lower().replace("http://www.w3.org/", "")
        assert text.count("<script") == text.count('<script src="/static/')


def test_the_name_of_a_federation_is_text(fake):
    fake.federation(replace(STATUS, name=FOREIGN, state=FOREIGN))
    assert FOREIGN not in fake.person().get("/").text
    assert "&lt;script&gt;" in fake.person().get("/").text


def test_what_went_wrong_is_text_and_says_what_to_do(fake):
    fake.federation().status.side_effect = OneflowerError(FOREIGN, "Do this.")
    answer = fake.person().get("/")
    assert (answer.status_code, FOREIGN in answer.text, "Do this." in answer.text) == (422, False, True)


def test_the_page_listens_on_the_loopback_only_and_there_everywhere():
    listeners = server.listen(0)
    try:
        addresses = {listener.getsockname()[0] for listener in listeners}
        port = listeners[0].getsockname()[1]
        assert addresses <= {"127.0.0.1", "::1"}
        with pytest.raises(OneflowerError, match=r"(?s)cannot listen on port.*--port"):
            server.listen(port)
    finally:
        for listener in listeners:
            listener.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_a_port_that_another_user_has_for_ipv6_is_not_used_for_ipv4():
    with socket.socket(socket.AF_INET6) as other:
        try:
            other.bind(("::1", 0))
        except OSError:
            pytest.skip("needs IPv6")
        other.listen()
        with pytest.raises(OneflowerError, match="cannot listen"):
            server.listen(other.getsockname()[1])


def test_the_token_is_in_no_command_line(fake, tmp_path):
    with server.entrance(fake.keys.address) as file:
        assert fake.keys.address in file.read_text()
        assert fake.keys.token not in file.as_uri()
        assert file.parent.stat().st_mode & 0o077 == 0
    assert not file.exists()
