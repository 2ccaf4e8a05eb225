"""A Hub for tests that push and pull: data set repositories over HTTP, with commits and large file storage."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest

from tests.hub import running

LFS_FROM = 10_000_000


def _is_large(path: str, size: int, sample: bytes) -> bool:
    """How the Hub sorts files: Parquet, big and binary ones go to large file storage."""
    return path.endswith(".parquet") or size > LFS_FROM or b"\0" in sample or not _is_text(sample)


def _is_text(sample: bytes) -> bool:
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


class DatasetHub:
    """A Hub on this machine that data set repositories can be made on, written to and read from.

    Large files lie in a store of their own, which takes no token and which reading redirects to, as on the Hub.

    Args:
        token: The only token that may write, and read what is private.
        page: Entries of one page of a listing.
    """

    def __init__(self, token: str = "hf_secret", page: int = 1000):
        self.token, self.page = token, page
        self.private: dict[str, bool] = {}
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.branches: dict[tuple[str, str], str] = {}  # (repository, branch beside main) -> commit
        self.large: dict[str, bytes] = {}
        self.ignored: set[str] = set()
        self.checks_parent = True
        self.requests: list[str] = []
        self.headers: list[tuple[str, dict[str, str]]] = []
        self.failures: list[
            tuple[str, int, dict[str, str]]
        ] = []  # (beginning of a request, status, headers), each once
        self.lost_answers: list[str] = []  # beginnings of requests that are done but answered by an error, each once
        self.before_commit: list[Callable[[], None]] = []  # each is called once, when a commit is about to be made
        self.endpoint = ""
        self._lock = threading.RLock()

    def files(self, repo: str) -> dict[str, bytes]:
        """The files of a repository's branch."""
        return self.commits[repo][-1][1]

    def commit(self, repo: str, files: Mapping[str, bytes]) -> str:
        """Puts a commit on the branch, as somebody else's push or the Hub itself does."""
        with self._lock:
            history = self.commits.setdefault(repo, [])
            oid = hashlib.sha1(f"{repo} {len(history)}".encode()).hexdigest()
            history.append((oid, dict(files)))
            return oid

    def answer(self, method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a request."""
        self.requests.append(f"{method} {url}")
        self.headers.append((f"{method} {url}", headers))
        for failure in self.failures:
            if f"{method} {url}".startswith(failure[0]):
                self.failures.remove(failure)
                return failure[1], failure[2], b"" if url.startswith("/storage") else b'{"error": "not now"}'
        answer = self._answer(method, url, headers, body)
        for beginning in self.lost_answers:
            if f"{method} {url}".startswith(beginning):
                self.lost_answers.remove(beginning)
                return 500, {}, b'{"error": "not sure"}'
        return answer

    def _answer(self, method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        path, _, query = url.partition("?")
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[0] == "storage":
            return self._storage(method, parts[1], headers, body)
        allowed = headers.get("authorization") == f"Bearer {self.token}"
        if parts[:2] == ["api", "validate-yaml"]:
            return 200, {}, b'{"errors": [], "warnings": []}'
        if method not in ("GET", "HEAD") and "paths-info" not in parts and not allowed:
            return 401, {"X-Error-Message": "Invalid username or password."}, b"{}"
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        first = 2 if parts[0] == "api" else 1
        repo = "/".join(parts[first : first + 2]).removesuffix(".git")
        if repo not in self.commits or (self.private[repo] and not allowed):
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        return self._repository(repo, parts[first + 2 :], parse_qs(query), headers, body)

    def _create(self, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        repo = f"{request['organization']}/{request['name']}"
        status = 409 if repo in self.commits else 200
        if status == 200:
            self.private[repo] = request["visibility"] == "private" if "visibility" in request else request["private"]
            self.commit(repo, {".gitattributes": b"*.parquet filter=lfs\n"})
        return status, {}, json.dumps({"url": f"{self.endpoint}/datasets/{repo}"}).encode()

    def _repository(
        self, repo: str, parts: list[str], query: dict[str, list[str]], headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        action = parts[0]
        if parts[-1] == "batch":
            return self._batch(json.loads(body))
        oid, files = self._at(repo, parts[1])
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if action == "revision":
            return 200, {}, json.dumps({"id": repo, "sha": oid, "private": self.private[repo]}).encode()
        if action == "tree":
            return self._tree(repo, files, "/".join(parts[2:]), int(query.get("cursor", ["0"])[0]), "/".join(parts))
        if action == "paths-info":
            paths = parse_qs(body.decode()).get("paths", [])
            return 200, {}, json.dumps([_about(path, files[path]) for path in paths if path in files]).encode()
        if action == "preupload":
            return self._preupload(json.loads(body))
        if action == "commit":
            return self._commit(repo, [json.loads(line) for line in body.splitlines()])
        return self._resolve(files, "/".join(parts[2:]), oid)

    def _at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes] | None]:
        history = self.commits[repo]
        if revision == "main":
            return history[-1]
        revision = self.branches.get((repo, revision), revision)
        return revision, dict(history).get(revision)

    def _tree(
        self, repo: str, files: dict[str, bytes], below: str, cursor: int, path: str
    ) -> tuple[int, dict[str, str], bytes]:
        inside = sorted(name for name in files if not below or name.startswith(f"{below}/"))
        if below and not inside:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        folders = {str(parent) for name in inside for parent in Path(name).parents} - {".", "/"}
        entries = [{"type": "directory", "path": folder, "oid": "0" * 40} for folder in sorted(folders)]
        entries += [_about(name, files[name]) for name in inside]
        more = cursor + self.page
        link = f'<{self.endpoint}/api/datasets/{repo}/{path}?recursive=True&cursor={more}>; rel="next"'
        headers = {"Link": link} if more < len(entries) else {}
        return 200, headers, json.dumps(entries[cursor:more]).encode()

    def _preupload(self, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        answers = [
            {
                "path": file["path"],
                "uploadMode": "lfs"
                if _is_large(file["path"], file["size"], base64.b64decode(file["sample"]))
                else "regular",
                "shouldIgnore": file["path"] in self.ignored,
            }
            for file in request["files"]
        ]
        return 200, {}, json.dumps({"files": answers}).encode()

    def _batch(self, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        objects = [
            {"oid": item["oid"], "size": item["size"]}
            | (
                {}
                if item["oid"] in self.large
                else {"actions": {"upload": {"href": f"{self.endpoint}/storage/{item['oid']}?signature=abc"}}}
            )
            for item in request["objects"]
        ]
        return 200, {}, json.dumps({"transfer": "basic", "objects": objects}).encode()

    def _storage(
        self, method: str, oid: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if "authorization" in headers:
            return 400, {}, b"the store takes signed addresses, no token"
        if method == "PUT":
            if hashlib.sha256(body).hexdigest() != oid:
                return 400, {}, b"other bytes than announced"
            self.large[oid] = body
            return 200, {}, b""
        return _ranged(self.large[oid], headers)

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> tuple[int, dict[str, str], bytes]:
        if self.before_commit:
            self.before_commit.pop()()
        with self._lock:
            oid, files = self.commits[repo][-1]
            after = dict(files)
            if self.checks_parent and lines[0]["value"].get("parentCommit", oid) != oid:
                message = "A commit has happened since. Please refresh and try again."
                return 412, {}, json.dumps({"error": message}).encode()
            for line in lines[1:]:
                path = line["value"]["path"]
                if line["key"] == "file":
                    after[path] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    after[path] = self.large[line["value"]["oid"]]
                elif line["key"] == "deletedFile":
                    del after[path]
                else:
                    after = {name: body for name, body in after.items() if not name.startswith(path)}
            made = self.commit(repo, after)
        value = {"commitUrl": f"{self.endpoint}/datasets/{repo}/commit/{made}", "commitOid": made}
        return 200, {}, json.dumps(value).encode()

    def _resolve(self, files: dict[str, bytes], path: str, commit: str) -> tuple[int, dict[str, str], bytes]:
        if path not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        body = files[path]
        if _is_large(path, len(body), body[:512]):
            oid = hashlib.sha256(body).hexdigest()
            self.large[oid] = body
            # another host than the Hub's own, so that a client that passes its token on is noticed
            host = self.endpoint.replace("127.0.0.1", "localhost")
            linked = {"X-Linked-Size": str(len(body)), "X-Linked-ETag": f'"{oid}"', "X-Repo-Commit": commit}
            return 302, {"Location": f"{host}/storage/{oid}?signature=abc", **linked}, b""
        stated = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
        return 200, stated, body  # a small file is given whole, whatever range is requested

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serves on a free port; gives the endpoint's address."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def respond(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                request = {name.lower(): value for name, value in self.headers.items()}
                status, headers, body = hub.answer(self.command, self.path, request, self.rfile.read(size))
                self.send_response(status)
                for header, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(header, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_POST = do_PUT = respond

            def log_message(self, format: str, *args: Any) -> None:
                pass

        with running(Handler) as endpoint:
            self.endpoint = endpoint
            yield endpoint


def _about(path: str, body: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
    if _is_large(path, len(body), body[:512]):
        entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
    return entry


def _ranged(body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    part = headers.get("range", "").removeprefix("bytes=")
    if not part:
        return 200, {}, body
    first, last = (int(end) for end in part.split("-"))
    return 206, {"Content-Range": f"bytes {first}-{last}/{len(body)}"}, body[first : last + 1]


@contextmanager
def the_only_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    """A Hub that huggingface_hub takes for the real one in this process, with its token in the environment."""
    import stamina
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    server = DatasetHub()
    with server.serving() as endpoint, stamina.set_testing(True, attempts=4):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setenv("FEATCACHE_HOME", str(folder / "home"))  # where it is remembered what was verified
        yield server
        close_session()
