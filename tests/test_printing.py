"""Nothing that others wrote moves the cursor of a terminal, is taken for markup, or shows a password."""

import io
import json
import logging
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.commands import app, endings, options
from featcache.errors import FeatcacheError, FeaturesNotCached, RemoteFailed
from featcache.notices import notice
from featcache.printing import HIDDEN, printable, redacted, safe_text
from featcache.report.terminal.console import console, print_json, print_table
from featcache.report.terminal.progress import row_progress, step_progress
from tests.foreign import N, take_npy, write_ids

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\x9b31m\r\x00\x7f\u202eb\u2066\ufeff[red]c[/] [link=https://x.example]d[/link]"


def is_safe(text: str) -> bool:
    kept = "\n\t\u00ad\u200c\u200d"
    return all(unicodedata.category(each) not in ("Cc", "Cf", "Cs") or each in kept for each in text)


@given(st.text())
def test_what_is_printable_is_safe_stays_so_and_is_the_same_text_in_json(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(each) in ("Cc", "Cs") and each not in "\n\t" for each in shown)
    assert printable(shown) == shown
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text
    assert "\n" not in printable(text, one_line=True)


def test_emoji_persian_and_hebrew_are_left_as_they_are() -> None:
    for text in (
        "👩\u200d👩\u200d👧",
        "🏴\U000e0067\U000e0062\U000e007f",
        "می\u200cخواهم",
        "שלום",
        "e\u0301",
        "日本\tx\ny",
    ):
        assert printable(text) == text


DOORS: dict[str, Callable[[], None]] = {
    "a line": lambda: console().print(HOSTILE),
    "a styled line": lambda: console(stderr=True).print(HOSTILE, style="bold red"),
    "a table": lambda: print_table(("name", "n"), [(HOSTILE, 1), ("b", 2)], title=HOSTILE),
    "json": lambda: print_json({HOSTILE: [HOSTILE]}),
    "json of rich": lambda: console().print_json(data={HOSTILE: [HOSTILE]}),
    "a command's line": lambda: options.echo(HOSTILE, err=True),
    "an error": lambda: endings.print_error(HOSTILE),
    "a notice": lambda: notice(HOSTILE),
    "a log line": lambda: logging.getLogger("some.library").warning("%s", HOSTILE),
}


@pytest.mark.parametrize("door", DOORS)
def test_no_door_lets_a_control_character_out(
    door: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "lastResort", logging._StderrHandler(logging.WARNING))  # pyright: ignore
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    notice.cache_clear()
    endings.keep_log_lines_safe()
    DOORS[door]()
    out, err = capsys.readouterr()
    assert is_safe(out + err) and "owned" in out + err and "[red]c[/]" in out + err
    if "json" in door:
        assert json.loads(out) == ({HOSTILE: [HOSTILE]})


@pytest.mark.parametrize("title", [HOSTILE, "[/]", "[red]x", "[link=https://x.example]d[/link]"])
def test_a_progress_display_shows_names_as_they_are(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar and a spinner take their text for markup by themselves, and fail where that is none."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with step_progress(title) as on_step:
        on_step(title)
    with row_progress(title, 5) as advance:
        advance(5)
    shown = screen.getvalue()
    assert printable(title.split("\x1b")[0], one_line=True).split("\r")[0] in shown
    assert not any(part in shown for part in ("\x1b]0", "\x1b]8", "\x07", "\x00", "\x9b", "\u202e"))


def test_an_error_of_ours_is_safe_whoever_prints_it() -> None:
    for error in (FeatcacheError(HOSTILE), FeaturesNotCached(HOSTILE, None), RemoteFailed(f"x {HOSTILE}")):
        assert is_safe(str(error)) and "[red]c[/]" in str(error)


def test_a_fault_of_ours_is_a_traceback_with_nothing_raw_in_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError(f"{HOSTILE} https://me:hunter2@proxy.example")

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(SystemExit) as end:
        app.main()
    shown = capsys.readouterr().err
    assert end.value.code == 1 and shown.startswith("Traceback") and is_safe(shown)
    assert "hunter2" not in shown and "owned" in shown


@pytest.mark.parametrize(
    "words", ["ls", "ls --json", "verify", "gc", "du", "rm * theirs --dry-run", "show no\x1b[2J x", "show * theirs"]
)
def test_names_of_files_reach_the_terminal_escaped(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_npy(tmp_path, ids=write_ids(tmp_path, [f"{row}\x1b[2J" for row in range(N)]))
    place = tmp_path / "cache"
    hostile = (place / "photos").rename(place / "d\x1b[31m\u202e[red]x")
    (hostile / "images" / ".tmp-\x1b[31m").write_bytes(b"")
    (hostile / "overlay-\x1b[31m.parquet").write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["featcache", *words.split(), "--cache", str(place)])
    with pytest.raises(SystemExit):
        app.main()
    out, err = capsys.readouterr()
    assert is_safe(out + err) and "Traceback" not in err and (out or err)


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "http://user:{}@proxy.example:3128",
        "https://{}@hub.example/api",
        "error sending request for url (https://a:b{}@s3.example/b/k?x=1): connect",
        "GET https://s3.example/k?X-Amz-Signature={}&X-Amz-Date=1",
        "?sv=1&sig={}&se=2",
        "AccountName=me;AccountKey={};EndpointSuffix=x",
        "{{'Authorization': 'Bearer {}'}}",
        "authorization: Basic {}",
        "password={}",
        "a token hf_{}",
    ],
)
def test_a_secret_in_a_text_is_left_out(text: str) -> None:
    secret = "s3cr3ts3cr3tS3CR3T"
    shown = redacted(text.format(secret))
    assert secret not in shown and HIDDEN in shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    ("variable", "value", "secret"),
    [
        ("HTTPS_PROXY", "http://me:pa/ss@word9@proxy:1", "pa/ss@word9"),
        ("AWS_ENDPOINT_URL", "https://key:longsecret@s3.example", "longsecret"),
        ("HF_ENDPOINT", "https://me:p%40ssword1@hub.example", "p@ssword1"),
        ("HF_TOKEN", "any-form-of-token", "any-form-of-token"),
        ("AWS_SECRET_ACCESS_KEY", "/ab+cdefghij", "/ab+cdefghij"),
        ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=xyz", "sv=1&sig=xyz"),
        ("MY_PASSWORD", "correct horse", "correct horse"),
    ],
)
def test_what_the_environment_holds_is_left_out_wherever_a_library_quotes_it(
    variable: str, value: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    for text in (f"cannot use {value}", f"bad part {secret!s} of it"):
        assert secret not in redacted(text)
        assert secret not in str(RemoteFailed(text))


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/features",
        "hf://datasets/owner/name",
        "flickr30k/images/resnet18@1a2b3c4d, 3 tokens a row",
        "mail me@example.org",
        "the token file; last-token pooling; token=3 is none",
        "https://huggingface.co/owner/name/tree/main",
    ],
)
def test_a_text_without_a_secret_is_left_as_it_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "features")
    assert safe_text(text) == text or "token=" in text


@pytest.mark.parametrize("endpoint", ["http://me:s3cr3tpass@127.0.0.1:9", "http://me:s3cr3t/9@127.0.0.1:9"])
def test_the_doctor_shows_no_password(endpoint: str, tmp_path: Path) -> None:
    """An endpoint with a password in it, which nobody answers at."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": endpoint,
        "HTTPS_PROXY": endpoint,
        "HF_ENDPOINT": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t/99",
    }
    code = """
from featcache.maintenance import doctor
from featcache.report.terminal.maintenance import show_findings
from featcache.storage import bucket, hub_api
from featcache.storage.open import open_folder
bucket._PATIENCE, hub_api._ATTEMPTS = 0.1, 1
for place in ("s3://bucket/x", "hf://datasets/owner/name"):
    show_findings(doctor._findings("remote", lambda: doctor._remote(open_folder(place), "remote")), as_json=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=100)
    assert "remote" in done.stdout, done.stderr
    # while it is imported, huggingface_hub itself prints what it takes for the port
    shown = (done.stdout + done.stderr).splitlines()
    assert not any("s3cr3t" in line for line in shown if not line.startswith("Error importing huggingface_hub"))
