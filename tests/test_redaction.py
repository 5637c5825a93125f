"""Secrets of addresses stay where they are used: never in a record, a message or a page."""

import json
import subprocess
import sys

import pytest

from lit_tune import cli, config as config_lib, errors
from lit_tune.redaction import redact

SIGNED = "https://me:word@host:8/a/{00000..00003}.tar?X-Amz-Signature=abc123&X-Amz-Expires=60"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SIGNED, "https://host:8/a/{00000..00003}.tar"),
        (f"0.5={SIGNED}", "0.5=https://host:8/a/{00000..00003}.tar"),
        ("reading 'http://h/x.tar?sig=1' (403), url=URL('https://u:p@h/y?token=2')",
         "reading 'http://h/x.tar' (403), url=URL('https://h/y')"),
        ("gs://bucket/what?.tar", "gs://bucket/what?.tar"),
        ("s3://key:secret@bucket/0.tar", "s3://bucket/0.tar"),
        ("shards/what?.tar and me@home", "shards/what?.tar and me@home"),
        ("https://host/a.tar", "https://host/a.tar"),
        ("HTTPS://me:word@host/a.tar?sig=1", "HTTPS://host/a.tar"),
        ("az://bucket/a.tar?sig=1: expected gs://", "az://bucket/a.tar: expected gs://"),
        ("https://me:wo@rd@host/a.tar", "https://host/a.tar"),
        ("https://me:wo'rd@host/a(1).tar?sig=1", "https://host/a(1).tar"),
        ("https://host/it's/a.tar?sig=1 failed", "https://host/it's/a.tar failed"),
        ("('0.7=http://h/a?sig=1,2', '0.3=http://h/b?sig=(3)4')", "('0.7=http://h/a', '0.3=http://h/b')"),
    ],
)  # fmt: skip
def test_addresses_lose_user_password_and_query(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_the_recorded_config_and_its_hash_know_no_signature() -> None:
    first, later = (config_lib.load("quickstart", [("data.train", SIGNED.replace("abc123", sig)),
                                                   ("eval.sets", f"('x={SIGNED.replace('abc123', sig)}',)")])
                    for sig in ("abc123", "later9"))  # fmt: skip
    text = config_lib.to_json(first)
    assert "abc123" not in text and "word" not in text and "https://host:8/a/{00000..00003}.tar" in text
    assert config_lib.config_hash(first) == config_lib.config_hash(later)
    assert "abc123" in first.data.train, "the run itself asks with the signature"
    assert json.loads(text)["eval"]["sets"] == ["x=https://host:8/a/{00000..00003}.tar"]


def test_messages_know_no_signature(capsys: pytest.CaptureFixture[str]) -> None:
    line = errors.explain(SIGNED, expected="a shard", found=f"ClientError({SIGNED})", do=f"look at {SIGNED}")
    assert "abc123" not in line and "word" not in line

    def fail(argv: list[str]) -> int:
        raise errors.DataError(f"cannot read {SIGNED}")

    assert cli.run(fail, []) == 4
    assert "abc123" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["index", "inspect"])
def test_a_command_that_fails_at_a_signed_address_does_not_tell_it(command: str) -> None:
    words = [sys.executable, "-m", "lit_tune.data", command, "http://me:word@127.0.0.1:9/{0..1}.tar?sig=abc123"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 4 and "http://127.0.0.1:9/" in said, said
    assert "abc123" not in said and "word" not in said, said
