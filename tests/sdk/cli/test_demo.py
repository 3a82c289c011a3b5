"""``stmd demo``: the page's files with its headers, on loopback, and nothing else."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from threading import Thread

import pytest
from typer.testing import CliRunner

from stmd_sdk.cli import page_server as pages
from stmd_sdk.cli.app import app
from stmd_sdk.errors import InvalidArgumentError, OutputError


@pytest.fixture
def page(tmp_path):
    folder = tmp_path / "dist"
    (folder / "runtime").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html>")
    for name in ("a.mjs", "a.wasm", "a.wasm.gz"):
        (folder / "runtime" / name).write_bytes(b"x")
    (tmp_path / "secret").write_text("secret")
    return folder


@pytest.fixture
def address(page):
    with pages.page_server(page, 0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/runtime/a.mjs", "text/javascript"),
        ("/runtime/a.wasm", "application/wasm"),
        ("/runtime/a.wasm.gz", "application/octet-stream"),
    ],
)
def test_files_come_with_the_headers_that_threads_and_wasm_need(address, path, kind):
    with urllib.request.urlopen(address + path) as answer:
        assert answer.headers["Content-Type"].startswith(kind)
        assert answer.headers["Content-Encoding"] is None
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"


@pytest.mark.parametrize("path", ["/runtime/", "/nothing", "/../secret", "/%2e%2e/secret", "/..%2fsecret"])
def test_nothing_but_the_page_is_served(address, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(address + path)
    assert refused.value.code == 404
    refused.value.close()


def test_a_page_that_was_not_built_says_how(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "CHECKOUT", tmp_path)
    done = CliRunner().invoke(app, ["demo"])
    assert done.exit_code == 2
    assert "npm ci && npm run models && npm run build" in done.output
    with pytest.raises(InvalidArgumentError, match="no page in"):
        pages.page_server(tmp_path / "elsewhere", 0)


def test_a_port_that_is_taken_is_said(page):
    with pages.page_server(page, 0) as server, pytest.raises(OutputError, match=f"port {server.server_port}"):
        pages.page_server(page, server.server_port)


def test_the_command_says_where_it_listens_and_ends_quietly(page):
    # A shell has what it starts in the background ignore interrupts.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from stmd_sdk.cli.app import main; main()"
    command = [sys.executable, "-c", program, "demo", "--port", "0", "--folder", str(page)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        line = server.stdout.readline()
        try:
            with urllib.request.urlopen(line.split()[0]) as answer:
                assert answer.read() == b"<!doctype html>"
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
        assert server.stderr.read() == ""
