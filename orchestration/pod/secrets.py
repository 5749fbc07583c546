"""What a pod must not say: the values of its Secrets, plainly or in an encoding that programs print."""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote, quote_plus

HIDDEN = b"***"

_LEAST = 8  # characters of a value: shorter ones are words that lines are made of
_LEAST_NAMED = 4  # of one whose name says what it is
_LEAST_ENCODED = 6
_REFERENCE = re.compile(r"EVEREST_\w+_SECRET")  # the name of a Secret, and no value of one
_NAMED = re.compile(r"SECRET|TOKEN|PASS|KEY|CREDENTIAL|AUTH|PRIVATE|WEBHOOK|DSN", re.IGNORECASE)
#: Of the manifest, the operator, the image and Kubernetes: what these say is no secret.
_OPEN = re.compile(
    r"(EVEREST|PET|KUBERNETES|PYTHON|LC|CUDA|NVIDIA|NV|NCCL|GLOO|TORCH\w*|OMP|MKL|LD|XDG|FI|UCX|MASTER|MPL\w*|GIT)_.*"
    r"|PYTHON\w*|PATH|HOME|HOSTNAME|TMPDIR|LANG|LANGUAGE|TERM|PWD|OLDPWD|SHLVL|USER|LOGNAME|SHELL|WORLD_SIZE|RANK"
    r"|AWS_(DEFAULT_)?REGION|AWS_CA_BUNDLE|AWS_ENDPOINT_URL\w*|AWS_PROFILE|MLFLOW_S3_ENDPOINT_URL|MLFLOW_TRACKING_URI|_"
)  # fmt: skip


def hiding(environment: Mapping[str, str]) -> Callable[[bytes], bytes]:
    """Replaces them in a text."""
    needles = sorted({each for value in secrets(environment) for each in _ways(value)}, key=len, reverse=True)

    def hide(text: bytes) -> bytes:
        for needle in needles:
            if needle in text:
                text = text.replace(needle, HIDDEN)
        return text

    return hide


def named(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Variables whose name says what they are: all that is known of a person's own environment."""
    return {
        name: value for name, value in environment.items() if _NAMED.search(name) and not _REFERENCE.fullmatch(name)
    }


def secrets(environment: Mapping[str, str]) -> set[str]:
    """Values of variables that are of Secrets: which ones these are a pod is not told, but the others are known.

    What a variable that is none of a Secret's says openly, such as the bucket's name, is no secret, nor is our name.
    """
    telling = named(environment)
    known = {name for name in environment if _OPEN.fullmatch(name)} - telling.keys()
    openly = {"everest"} | {environment[name].strip() for name in known}
    found = set()
    for name in environment.keys() - known:
        least = _LEAST_NAMED if name in telling else _LEAST
        for part in {environment[name].strip(), *environment[name].split("\n")}:
            value = part.strip()
            if len(value) >= least and value not in openly and (name in telling or not value.startswith("/")):
                found.add(value)
    return found


def _ways(value: str) -> Iterator[bytes]:
    """A value as programs print it."""
    plain = value.encode(errors="surrogateescape")
    encoded = {
        quote(plain, safe=""), quote(plain), quote_plus(plain), json.dumps(value)[1:-1], repr(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1], plain.hex(), plain.hex().upper(),
    }  # fmt: skip
    encoded |= {re.sub("%..", lambda found: found[0].lower(), each) for each in encoded}
    yield plain
    yield from (each.encode(errors="surrogateescape") for each in encoded)
    whole = b64encode(plain)
    for each in (whole, *(_within(plain, before) for before in range(3))):
        if len(each) >= _LEAST_ENCODED:
            yield from (each, each.translate(bytes.maketrans(b"+/", b"-_")))


def _within(plain: bytes, before: int) -> bytes:
    """What of its base64 is the same whatever surrounds it, where so many bytes (modulo 3) come before."""
    bits = 8 * (before + len(plain))
    return b64encode(bytes(before) + plain)[-(-8 * before // 6) : bits // 6]
