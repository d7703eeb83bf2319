"""Tokens and TLS on both ends, with certificates made on the spot."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import program, running

from codejax.execution.access import HEADER, TOKEN, Access, is_local, read_token
from codejax.execution.client import Fleet, FleetSettings, NoWorkers
from codejax.execution.protocol import Verdict
from codejax.execution.worker import WorkerSettings

SECRET = "a token that is long enough"
QUICK = FleetSettings(patience=0.5, first_pause=0.05, resolve_every=0.1)


@given(st.text(), st.text())
def test_one_token_is_admitted(token: str, shown: str):
    access = Access(token)
    assert access.admits(((HEADER, f"Bearer {shown}"),)) is (not token or shown == token)
    assert access.admits(access.metadata)
    assert access.admits(()) is not token


def test_a_token_is_not_shown():
    assert SECRET not in repr(Access(SECRET))
    assert SECRET not in repr(WorkerSettings(access=Access(SECRET)))


def test_tokens_come_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(TOKEN, raising=False)
    assert read_token() == ""
    monkeypatch.setenv(TOKEN, "of the environment")
    assert read_token() == "of the environment"
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    assert read_token(str(file)) == SECRET
    file.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        read_token(str(file))


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:0", True),
        ("127.9.9.9:70", True),
        ("[::1]:70", True),
        ("localhost:70", True),
        ("unix:/run/worker", True),
        ("0.0.0.0:70", False),
        ("[::]:70", False),
        ("10.0.0.1:70", False),
        ("localhost.example:70", False),
        ("worker:70", False),
    ],
)
def test_what_only_this_machine_reaches(address: str, local: bool):
    assert is_local(address) is local


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, what it signed for a worker and for a client, and another authority's."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("keys")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj")
    for authority in ("authority", "other"):
        files = ("-keyout", f"{authority}.key", "-out", f"{authority}.pem")
        openssl("req", "-x509", "-days", "2", *curve, f"/CN={authority}", *files)
    for name, authority in (("worker", "authority"), ("client", "authority"), ("spy", "other")):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("req", *curve, f"/CN={name}", *files)
        signed_by = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial")
        files = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "names")
        openssl("x509", "-req", "-days", "2", *signed_by, *files)
    return folder


def access_of(keys: Path, name: str, authority: str = "authority", token: str = "") -> Access:
    """What the holder of a certificate shows, and whom it trusts."""
    certificate, key = (str(keys / f"{name}.{kind}") if name else "" for kind in ("pem", "key"))
    return Access(token, certificate, key, str(keys / f"{authority}.pem") if authority else "")


def judges(address: str, access: Access) -> bool:
    """Whether a client with this access gets a job judged."""
    with Fleet(address, access=access, settings=QUICK) as fleet:
        try:
            return fleet.judge([program("ok")])[0].verdict is Verdict.AC
        except NoWorkers:
            return False


def test_mutual_tls(keys: Path):
    own = access_of(keys, "worker")
    WorkerSettings(listen="0.0.0.0:0", access=own).check()
    with running(access=own) as made:
        address = f"static:{made.address}"
        assert judges(address, access_of(keys, "client"))
        assert not judges(address, access_of(keys, ""))  # shows no certificate
        assert not judges(address, access_of(keys, "spy"))  # shows another authority's
        assert not judges(address, access_of(keys, "client", "other"))  # trusts another one
        assert not judges(address, Access())
        port = made.address.rpartition(":")[2]
        assert judges(f"dns:///localhost:{port}", access_of(keys, "client"))
        assert set(made.counts) == {"ok"}
        assert made.counts["ok"] == 2


def test_a_token_over_tls(keys: Path):
    with running(access=access_of(keys, "worker", "", SECRET)) as made:
        address = f"static:{made.address}"
        assert judges(address, access_of(keys, "", token=SECRET))
        assert not judges(address, access_of(keys, "", token="another token, long enough"))
        assert not judges(address, access_of(keys, "", "other", token=SECRET))
        assert made.counts == {"ok": 1}


def test_files_that_cannot_be_read_are_the_callers_error():
    with pytest.raises(FileNotFoundError):
        Fleet("static:127.0.0.1:1", access=Access(authority="/nowhere"))
    with pytest.raises(ValueError, match="one of the two is missing"):
        Fleet("static:127.0.0.1:1", access=Access(certificate="/nowhere"))
