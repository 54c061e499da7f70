"""The dashboard's server: its own address alone, three kinds of pages, and fresh data while runs go on."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deqrun.records.folders import find_folders
from deqrun.report.compare import server as serving
from deqrun.report.compare.page import run_id
from deqrun.report.compare.server import Board, Server
from scripts.many_runs import write_runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_runs(tmp_path / "runs", 2)
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "runs" / "000" / "report.html").write_text("<script>of a stranger</script>")
    return tmp_path / "runs"


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(serving, "FRESH", 0.0)
    made = Server(Board(lambda: find_folders([folder])), 0)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def ask(
    server: Server, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=headers is not None and "Host" in headers)
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_it_listens_on_loopback_alone(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_the_page_and_its_data(server: Server) -> None:
    status, headers, body = ask(server, "/")
    assert status == 200
    assert b"2 runs compared" in body
    assert "connect-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    status, headers, body = ask(server, "/data.json")
    assert (status, json.loads(body)["count"]) == (200, 2)
    assert ask(server, "/data.json", headers={"If-None-Match": headers["ETag"]})[0] == 304
    status, headers, body = ask(server, "/", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 1_000_000


def test_a_report_is_made_from_records_and_no_file_of_a_run_is_served(server: Server, folder: Path) -> None:
    status, _, body = ask(server, f"/run/{run_id(folder / '000')}/report.html")
    assert status == 200
    assert b"of a stranger" not in body
    assert b"Run report" in body


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/run/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/run/00000000/report.html",
        "/run/{id}/config.yaml",
        "/run/{id}/../config.yaml",
        "/run/{id}/report.html/..%2fconfig.yaml",
        "/run/{id}/%2e%2e/%2e%2e/secret.txt",
        "//secret.txt",
        "/secret.txt",
        "/data.json/",
        "/run/{id}/report.html%00",
        "\\..\\secret.txt",
    ],
)
def test_no_other_path_leads_anywhere(server: Server, folder: Path, path: str) -> None:
    status, _, body = ask(server, path.replace("{id}", run_id(folder / "000")))
    assert status == 404
    assert b"secret\n" not in body


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "localhost.evil:{port}"]
)
def test_a_foreign_host_is_refused(server: Server, host: str) -> None:
    """A name that somebody lets lead to 127.0.0.1 (DNS rebinding) would read the runs from a page of theirs."""
    status, _, body = ask(server, "/data.json", headers={"Host": host.replace("{port}", str(server.server_port))})
    assert status == 403
    assert b"runs" not in body


def test_its_own_names_are_answered(server: Server) -> None:
    for name in ("127.0.0.1", "localhost"):
        assert ask(server, "/data.json", headers={"Host": f"{name}:{server.server_port}"})[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_written(server: Server, method: str) -> None:
    status, headers, _ = ask(server, "/", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_a_new_epoch_is_in_the_next_answer(server: Server, folder: Path) -> None:
    tag = ask(server, "/data.json")[1]["ETag"]
    with open(folder / "000" / "train.jsonl", "a", encoding="utf-8") as file:
        file.write('{"epoch": 21, "val_accuracy": 0.5}\n')
    status, headers, body = ask(server, "/data.json", headers={"If-None-Match": tag})
    assert status == 200
    assert headers["ETag"] != tag
    assert 21 in [run["epoch"] for run in json.loads(body)["runs"]]


def test_a_run_that_is_damaged_meanwhile_is_left_out(server: Server, folder: Path) -> None:
    (folder / "000" / "summary.json").write_text("{")
    found = json.loads(ask(server, "/data.json")[2])
    assert found["count"] == 1
    assert "summary.json' is not JSON" in found["left_out"][0]
