"""Values of a pod's Secrets do not leave it in what it says."""

import base64
import json
import random
import string
from urllib.parse import quote, quote_plus

import pytest

from orchestration.pod.secrets import HIDDEN, hiding, named

PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLE",
    "MLFLOW_TRACKING_PASSWORD": "pa ss&w\"o'rd<é>",
    "PGPASSWORD": "kurz",
    "ANYTHING": "seven-of-nine",
    "CERTIFICATE": "-----BEGIN X-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQ\n-----END X-----\n",
    "EVEREST_WEBHOOK": "https://hooks.example.org/T0/B0/x",
}
OPEN = {
    "EVEREST_S3_BUCKET": "everest", "AWS_ACCESS_KEY_ID": "everest", "PATH": "/usr/local/bin:/usr/bin", "HOME": "/work",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1", "PET_NNODES": "2", "SOME_FOLDER": "/usr/local/lib", "MODE": "on",
    "HOSTNAME": "mine-worker-0", "EVEREST_NOTIFY_SECRET": "slack-of-the-lab", "LC_CTYPE": "C.UTF-8",
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_secret_is_hidden_plainly_and_as_programs_encode_it(name: str) -> None:
    hide = hiding({**OPEN, **PLANTED})
    value = PLANTED[name].strip()
    raw = value.encode()
    ways = {
        value, quote(value), quote(value, safe=""), quote_plus(value), json.dumps(value), repr(value), raw.hex(),
        json.dumps({"a": [value]}, ensure_ascii=False), base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(), f"postgresql://user:{quote(value, safe='')}@host/db",
    }  # fmt: skip
    for way in ways:
        assert hide(f"before {way} after".encode()).decode().startswith("before "), way
        hidden = hide(f"before {way} after".encode())
        assert HIDDEN in hidden, way
        for part in (value.encode(), raw.hex().encode(), quote(value).encode()):
            assert part not in hidden, way


def test_a_secret_within_what_is_base64_is_hidden_wherever_it_stands() -> None:
    dice = random.Random(0)
    for _ in range(300):
        secret = "".join(dice.choices(string.printable.strip(), k=dice.randint(8, 40)))
        hide = hiding({"TOKEN": secret})
        for before in range(4):
            user = "".join(dice.choices(string.ascii_letters, k=before))
            said = base64.b64encode(f"{user}:{secret}\n".encode())
            hidden = hide(b"Authorization: Basic " + said)
            assert HIDDEN in hidden, (secret, user)
            left = hidden.partition(b"Basic ")[2].replace(HIDDEN, b"")
            assert len(left) <= len(said) - len(secret) * 8 // 6 + 2


def test_a_multi_line_secret_is_hidden_line_by_line_too() -> None:
    hide = hiding(PLANTED)
    assert b"MIIEvQ" not in hide(b"read MIIEvQIBADANBg")
    assert hide(PLANTED["CERTIFICATE"].encode()).strip() == HIDDEN


def test_of_a_persons_own_environment_only_names_tell() -> None:
    mine = {**OPEN, **PLANTED, "CONDA_DEFAULT_ENV": "environment-of-mine"}
    assert hiding(named(mine))(b"everest in environment-of-mine: kurz seven-of-nine") == (
        b"everest in environment-of-mine: *** seven-of-nine"
    )


def test_what_is_no_secret_is_said() -> None:
    hide = hiding({**OPEN, **PLANTED})
    for line in (
        b"[rank 0] everest: the disk is full",
        b"s3://everest/everest/mine on mine-worker-0 by C.UTF-8 in /work",
        b'File "/usr/local/lib/python3.11/threading.py", line 3',
    ):
        assert hide(line) == line
