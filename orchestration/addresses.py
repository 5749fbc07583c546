"""Addresses of servers and databases: the form that they must have, that they hold no secret, how they are shown."""

import re
from ipaddress import IPv6Address, ip_address
from urllib.parse import parse_qs, unquote

from pydantic import AfterValidator

_FORMS = {
    "http://": "http://HOST:PORT",
    "https://": "https://HOST:PORT",
    "postgresql://": "postgresql://USER@HOST/DATABASE",
    "sqlite:///": "sqlite:///FILE",
    "journal:": "journal:FILE",
}
_PLACE = re.compile(r"(\[[0-9a-f:.]+\]|[\w-]+(?:\.[\w-]+)*\.?)(?::([0-9]{1,5}))?", re.IGNORECASE)
_SECRET = re.compile(
    r"passw|passphrase|pwd|secret|token|credential|signature|apikey|(^|[-_])(pass|key)$", re.IGNORECASE
)
_HERE = {"localhost", "localhost.localdomain", "localhost6", "ip6-localhost", "ip6-loopback"}


def address(*schemes: str) -> AfterValidator:
    """For ``Annotated[str, address("http://", …)]``. What it says never repeats the address, which may be a secret."""
    *others, last = (_FORMS[scheme] for scheme in schemes)
    form = f"{', '.join(others)} or {last}" if others else last

    def check(text: str) -> str:
        scheme = next((each for each in schemes if text.startswith(each)), None)
        if scheme is None:
            raise ValueError(f"must be {form}")
        rest = text.removeprefix(scheme)
        if scheme.startswith("http"):
            _check_server(rest)
        elif scheme == "postgresql://":
            _check_database(rest)
        elif rest.partition("?")[0] in {"", ":memory:"}:
            raise ValueError(f"must be {form}")
        _check_query(rest)
        return text

    return AfterValidator(check)


def shown(text: str) -> str:
    """What of an address, or of what was meant as one, can be no secret."""
    text = unquote(text)
    scheme, there, _ = text.partition("://")
    before = f"{scheme}://" if there else ""
    if re.search(r"[?#].*@", text, re.DOTALL):
        return f"{before}…"
    plain = re.split(r"[?#]", text)[0]
    if "@" in plain:
        return f"{before}…@{plain.rpartition('@')[2]}"
    rest = plain.removeprefix(before)
    if password := re.match(r"(\w[^/:\[\]]*:)(?![0-9]*(/|$))", rest):
        return f"{before}{password[1]}…"
    return plain if plain == text else f"{plain}…"


def is_here(text: str) -> bool:
    """Whether it means another place on every machine: a socket, or the machine itself."""
    rest = text.partition("://")[2]
    place, _, query = rest.partition("?")
    found = _PLACE.fullmatch(place.rpartition("@")[2].partition("/")[0])
    hosts = [found[1]] if found else []
    for each in ",".join(parse_qs(query).get("host", [])).split(","):
        hosts += [each, each.rpartition(":")[0]]
    return any(_is_here(each) for each in hosts)


def _check_server(rest: str) -> None:
    if "@" in rest:
        raise ValueError("holds a name or a password, which would be seen in manifests; it belongs into a Secret")
    if re.search(r"[?#]", rest):
        raise ValueError(
            "must end before '?' and '#': what follows would be seen in manifests; secrets go into a Secret"
        )
    _check_place(rest, rest.partition("/")[0])


def _check_database(rest: str) -> None:
    place, _, query = rest.partition("?")
    who, _, there = place.rpartition("@")
    if ":" in who:
        raise ValueError("holds a password, which would be seen in manifests; PGPASSWORD or ~/.pgpass gives it")
    host, _, database = there.partition("/")
    if host or "host" not in parse_qs(query):
        _check_place(rest, host)
    if not database:
        raise ValueError(f"must name a database, as {_FORMS['postgresql://']}")


def _check_place(rest: str, place: str) -> None:
    if " " in rest or not rest.isprintable():
        raise ValueError("must have no blanks and no characters that cannot be seen")
    found = _PLACE.fullmatch(place)
    if not (found and _is_host(found[1]) and 0 < int(found[2] or 1) < 2**16):
        raise ValueError("must have a host after '//', and after ':' a port from 1 to 65535 or none")


def _check_query(rest: str) -> None:
    if any(_SECRET.search(name) for name in parse_qs(rest.partition("?")[2], keep_blank_values=True)):
        raise ValueError(
            "holds a password after '?', which would be seen in manifests; PGPASSWORD or ~/.pgpass gives it"
        )


def _is_host(name: str) -> bool:
    if not name.startswith("[") and not re.fullmatch(r"[0-9.]+", name):
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_here(host: str) -> bool:
    name = host.strip("[]").rstrip(".").lower()
    if host.startswith("/") or name in _HERE or name.endswith(".localhost"):
        return True
    try:
        number = ip_address(name)
    except ValueError:
        return False
    if isinstance(number, IPv6Address):
        number = number.ipv4_mapped or number
    return number.is_loopback or number.is_unspecified
