"""Text that somebody else wrote, made fit to be printed: control characters escaped, passwords and tokens left out."""

import json
import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "***"  # in the place of a secret

# C0 without newline and tab, DEL, C1, marks and overrides of direction, invisible characters, and what is none. Joiners
# and tags stay, which emoji and Persian are written with, and soft hyphens.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ufffe\uffff\ud800-\udfff\U000e0001]"
)
_LINE = re.compile("[\n\t]")

_SECRET_VARIABLE = re.compile(r"(?:^|_)(?:SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|KEY|SAS)(?:_|$)")
_NO_SECRET = ("_ID", "_FILE", "_PATH", "_DIR", "_URI", "_URL")
_SHORTEST, _SHORTEST_PART = 8, 6  # characters of a secret; a shorter one would be found in plain words
_PATTERNS = (
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#\"'<>]*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(?i)(\bauthorization\b[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer)\s+)?)[^\s\"',;]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{16,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(?:hf|gh[opsur]|github_pat)_[A-Za-z0-9_]{16,}"), HIDDEN),
    (
        # of signed addresses and connection strings
        re.compile(
            r"(?i)(?<![\w-])((?:x-amz-(?:signature|security-token|credential)|x-goog-(?:signature|credential)|sig|"
            r"signature|(?:access_?|auth_?|session_?)?token|api_?key|accountkey|password|passwd|secret|"
            r"(?:aws_)?secret_access_key)=)[^\s&;\"'<>]+"
        ),
        rf"\1{HIDDEN}",
    ),
)


def printable(text: str, *, one_line: bool = False) -> str:
    r"""Text without a character that a terminal or a font renderer obeys: each is escaped as JSON escapes it.

    Text in JSON stays JSON of the same value.

    Args:
        text: Any text.
        one_line: Escape newlines and tabs, too.

    Example:
        >>> printable("a\x1b[2Jb\u202e"), printable("a\nb", one_line=True)
        ('a\\u001b[2Jb\\u202e', 'a\\nb')
    """
    text = _CONTROL.sub(_escape, text)
    return _LINE.sub(_escape, text) if one_line else text


def _escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def redacted(text: str) -> str:
    """Text without passwords and tokens: those in addresses and signatures, and those that the environment holds.

    Example:
        >>> redacted("cannot reach https://me:secret@host/bucket?X-Amz-Signature=abc&x=1")
        'cannot reach https://***@host/bucket?X-Amz-Signature=***&x=1'
    """
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _secrets() -> list[str]:
    """Secrets in the environment, the longest first."""
    secrets = {secret for name, value in os.environ.items() for secret in _secrets_in(name.upper(), value)}
    return sorted(secrets, key=len, reverse=True)


def _secrets_in(name: str, value: str) -> Iterator[str]:
    if _SECRET_VARIABLE.search(name) and not name.endswith(_NO_SECRET) and len(value) >= _SHORTEST:
        yield value
    scheme, separator, rest = value.partition("://")
    if separator and "@" in rest and not any(character.isspace() for character in value):
        user = rest.rpartition("@")[0]
        password = user.partition(":")[2]
        yield from (user,) if password else ()
        # a slash in a password ends the address for whoever parses it, and the part before it is quoted as a port
        parts = [part for part in re.split("[/?#]", password) if len(part) >= _SHORTEST_PART]
        yield from (each for each in (password, unquote(password)) if len(each) >= _SHORTEST)
        yield from parts if len(parts) > 1 or parts != [password] else ()


def safe_text(text: str, *, one_line: bool = False) -> str:
    """`printable` text of what is `redacted`: what every door through which text is printed applies."""
    return printable(redacted(text), one_line=one_line)
