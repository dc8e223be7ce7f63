"""Redaction: what is found, what is left alone, and what never changes. Fake secrets are put together from parts, so
that no scanner takes them for real ones."""

from __future__ import annotations

import base64
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles.redact_scan import candidates as oracle_candidates

from codemill.buffers import text_buffers
from codemill.hashing import document_ids
from codemill.pipeline import config, redact_scan
from codemill.pipeline.documents import DOCUMENTS, REDACTIONS
from codemill.pipeline.redact import redact
from codemill.pipeline.redact_confirm import KINDS, confirm, disjoint

ALL = config.Redact()
PLACEHOLDER = {kind: f"<{kind.upper()}>" for kind in KINDS}
LETTERS = "q7Rz2LmX9bTn4KcV8wYp3HsD6gFj5ZaQ1eUoBi0xNvWtMyCkSr" * 3
DIGITS = "482915730648" * 4
HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c"
PEM_BODY = "\n".join(base64.b64encode(bytes(range(k, k + 48))).decode() for k in range(0, 180, 30)) + "\nq7Rz2Lm="
DASHES = "-" * 5
HEADER, FOOTER = f"{DASHES}BEGIN RSA PRIVATE KEY{DASHES}", f"{DASHES}END RSA PRIVATE KEY{DASHES}"
JWT = ".".join(
    base64.urlsafe_b64encode(part).decode().rstrip("=")
    for part in (b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"7731","admin":true}', bytes(range(200, 232)))
)

# (kind, what is replaced, the line around it)
PLANTED = [
    ("email", "jane.roe" + "@" + "somecorp.com", "# Author: Jane Roe <{}>"),
    ("email", "j-doe+lists" + "@" + "mail.uni-bonn.de", 'MAINTAINER = "{}"'),
    ("email", "x_y" + "@" + "163.com", "mailto:{}?subject=hi"),
    ("email", "ops" + "@" + "bigco.co.uk", r'body = "call\n{}\n"'),
    ("ip_address", "52.14.131.90", 'HOST = "{}"'),
    ("ip_address", "185.199.108.153", "url = 'http://{}:8080/index'"),
    ("ip_address", "2a00:1450:4009:80b::200e", "connect('{}')"),
    ("ip_address", "2606:2800:220:1:248:1893:25c8:1946", "url = 'http://[{}]:443/'"),
    ("key", "AKIA" + "Q7RZ2LMX9BTN4KCV", 'aws_access_key_id = "{}"'),
    ("key", LETTERS[:40], 'aws_secret_access_key = "{}"'),
    ("key", "ghp" + "_" + LETTERS[:36], "git clone https://{}@github.com/o/r"),
    ("key", "github" + "_pat_" + LETTERS[:22] + "_" + LETTERS[22:81], "x = '{}'"),
    ("key", "glpat" + "-" + LETTERS[:20], "CI = '{}'"),
    ("key", "xoxb" + "-" + DIGITS[:12] + "-" + DIGITS[12:24] + "-" + LETTERS[:24], "slack('{}')"),
    ("key", "hooks.slack" + ".com/services/T0Q7RZ2LM/B0X9BTN4K/" + LETTERS[:24], "curl https://{}"),
    ("key", "sk" + "_live_" + LETTERS[:24], "stripe.api_key = '{}'"),
    ("key", "AI" + "za" + LETTERS[:35], "maps.load({{key: '{}'}})"),
    ("key", "GOC" + "SPX-" + LETTERS[:28], "'{}'"),
    ("key", "npm" + "_" + LETTERS[:36], "//registry.npmjs.org/:_authToken={}"),
    ("key", "pypi" + "-AgEIcHlwaS5vcmc" + LETTERS[:80], "  password = {}"),
    ("key", "SG" + "." + LETTERS[:22] + "." + LETTERS[22:65], "sendgrid('{}')"),
    ("key", "SK" + HEX[:32], "twilio = '{}'"),
    ("key", "sk" + "-" + LETTERS[:20] + "T3Blbk" + "FJ" + LETTERS[20:40], "openai.key='{}'"),
    ("key", "sk" + "-ant-api03-" + LETTERS[:80], "'{}'"),
    ("key", "hf" + "_" + LETTERS[:34], "login('{}')"),
    ("key", LETTERS[:86] + "==", "AccountName=a;AccountKey={};EndpointSuffix=core.windows.net"),
    ("key", JWT, "Authorization: Bearer {}"),
    ("key", HEX[:32], "config.apiKey = `{}`;"),
    ("key", LETTERS[:32], '  "client_secret": "{}",'),
    ("key", LETTERS[:40], "auth_token: str = '{}'"),
    ("key", LETTERS[:40], "GET /v1/items?access_token={}&page=2"),
    ("key", PEM_BODY, f"{HEADER}\n{{}}\n{FOOTER}"),
    ("password", "hunt" + "er2!", 'password = "{}"'),
    ("password", "Tr0ub4dor&3", "DB_PASS='{}'"),
    ("password", "s3cr" + "3t-pa55", '{{"passwd": "{}"}}'),
    ("password", "k9$wq!42", "if user_password == '{}':"),
    ("password", "corr3ct+h0rse", 'char *passphrase = "{}";'),
    ("password", "p4ssw" + "0rd99", "postgres://app:{}@db.internal:5432/main"),
    ("password", "9xTq7w", "redis://:{}@cache:6379"),
    ("password", "pÄss9wörd", "pwd := '{}'"),
    ("password", "w0rd-9x", r'payload = "{{\"password\": \"{}\"}}"'),
]

LOOK_ALIKES = [
    "user@example.com, a.b@mail.example.org, root@localhost, x@host.test, y@y.invalid, me@box.local",
    '"sk-ssh-ed25519@openssh.com"', "kex = ['curve25519-sha256@libssh.org']",
    f'"NextContinuationToken": "{LETTERS[:40]}"',
    '"PasswordLastUsed": "2016-09-08T21:47:36Z"', "DOMAIN\\path", "user-1.2@3.4.net",
    "git@github.com:owner/repo.git", "ssh://git@github.com/owner/repo", "scp f joe@box.company.io:/tmp",
    "@foo.bar", "@pytest.mark.slow\ndef f(): ...", "a@b", "c = a@b.T", "y = (xs@ws.to(device))", "q@k.mean()",
    "npm i @scope/pkg@1.2.3 left-pad@1.3.0 foo@2.0.0-rc.net", "icon@2x.png", "lib.so@@GLIBC_2.14", "getty@tty1.service",
    '"%s@%s.com" % (a, b)', 'f"{user}@{host}.com"', '"$user@host.com"', "ftp://anonymous@ftp.gnu.org/pub",
    "https://medium.com/@someone/post", "svn+ssh://me@svn.somehost.org/x",
    "127.0.0.1 10.1.2.3 192.168.1.77 172.16.9.9 169.254.1.1 0.0.0.0 255.255.255.0 224.0.0.251 240.1.2.3",
    "192.0.2.77 198.51.100.5 203.0.113.9 100.64.3.4", "8.8.8.8 1.1.1.1 9.9.9.9 2001:4860:4860::8888",
    "52.14.0.0/16 52.14.131.0 99.80.0.0/15", "version 101.45.77.3", "__version__ = '101.45.77.3'", "pkg==101.45.77.3",
    "v101.45.77.3", "foo-101.45.77.3.tar.gz",
    "see section 8.2.4.45", "1.2.3.4", "2.5.29.15", "1.3.6.1.4.1.311.20",
    "Chrome/101.45.77.3 Safari", "300.45.77.3 1.2.3", "::1 fe80::1 fc00::1 ff02::1 2001:db8::8a2e:370:7334",
    "std::abc::def a[1:2:3] 12:30:45 2024:10:05 00:1b:44:11:3a:b7", "2001:: 2a00:1450:4009::/48",
    "password = input('Password 1:')", "password = getpass()", "password=password1", "password = None",
    'password = "<PASSWORD>"', 'password = "{password1}"', 'password = "${DB_PASS1}"', 'password: "string"',
    'password = "your-password-1"', 'password = "changeme1"', 'password_field = "id_1_field"', 'help="password 1"',
    'label = {"password": "Password:", "pwd": "Enter 2 words"}', 'password_hash = "a1b2c3d4e5f6a7b8"',
    'passed = "tests-42"', 'compass = "north-2"', "bypass: '12-a-b'", 'pass_url = "https://x.y/z1"',
    'secret = "models.secret.v2"', 'secret_key = os.environ["SECRET_KEY_2"]', 'token_type = "bearer2bearer2bearer2"',
    'tokenizer = "llama-2-7b-hf-v1.0-abc1"', f'public_key = "{LETTERS[:40]}"', 'token = "<|endoftext_1|>"',
    'api_key = "YOUR_API_KEY_123456789"', 'api_key = "xxxxxxxxxxxx1234xxxx"', "AKIA" + "IOSFODNN7EXAMPLE",
    'secret = "123e4567-e89b-12d3-a456-426614174000"', 'key = "0123456789abcdef0123456789abcdef"',
    'access_token = "0123456789ABCDEF"', f'sha256 = "{HEX}"', f"commit {HEX[:40]}", f'"{HEX[:32]}": 1',
    f'"integrity": "sha512-{LETTERS[:86]}=="', f"foo==1.0 --hash=sha256:{HEX}",
    f'url("data:image/png;base64,{LETTERS}")',
    f"{DASHES}BEGIN CERTIFICATE{DASHES}\n{PEM_BODY}\n{DASHES}END CERTIFICATE{DASHES}",
    f"{DASHES}BEGIN PUBLIC KEY{DASHES}\n{PEM_BODY}\n{DASHES}END PUBLIC KEY{DASHES}",
    f"if line.startswith('{HEADER}'):\n    return load(line)", f"{HEADER}\n...\n{FOOTER}",
    f"{HEADER}\n{PLACEHOLDER['key']}\n{FOOTER}\n{DASHES}BEGIN CERTIFICATE{DASHES}\n{PEM_BODY}\n",
    "https://user:password@host.com https://user:{pw}@host https://$USER:$PASS1@host http://host:8080/@x.y",
    "eyJub3QgYSB0b2tlbg.abcdefghijkl.mnopqrstuvwx", "Asia/Kolkata_or_elsewhere",
    "sk-estimator-doc-link-and-more-classes-1",
    "github.com/owner/a-very-long-repository-name-1", "hooks.slack.com/services/", "ghp_short",
    "npm_config_registry_and_more",
]  # fmt: skip


def batch(texts: list[str], language: str | None = "python") -> pa.RecordBatch:
    n = len(texts)
    column = pa.array(texts, pa.large_string())
    known = {"id": document_ids(column), "text": column, "language": pa.array([language] * n, pa.string())}
    known["size_bytes"] = pa.array([len(text.encode()) for text in texts], pa.int64())
    return pa.RecordBatch.from_arrays(
        [known.get(field.name, pa.nulls(n, field.type)) for field in DOCUMENTS], schema=DOCUMENTS
    )


def redacted(text: str, language: str | None = "python") -> str:
    return redact(batch([text], language), ALL)[0].column("text")[0].as_py()


@pytest.fixture(scope="module")
def plain_code(standard_library: list[Path]) -> list[str]:
    """Forty files of the standard library in which nothing is to be redacted."""
    files = [path for path in standard_library if "test" not in path.parts and 2_000 < path.stat().st_size < 60_000]
    texts = [path.read_text(encoding="utf-8") for path in files[:120]]
    after = redact(batch(texts), ALL)[0].column("text").to_pylist()
    return [text for text, now in zip(texts, after, strict=True) if text == now][:40]


@pytest.mark.parametrize(("kind", "secret", "line"), PLANTED)
def test_a_planted_secret_is_replaced_and_nothing_else(kind: str, secret: str, line: str) -> None:
    before = f"import os\n{line.format(secret)}\nprint('done')\n"
    settings_file = "ini" if line.startswith("  password =") else "python"
    after, redactions = redact(batch([before], settings_file), ALL)
    assert after.column("text")[0].as_py() == before.replace(secret, PLACEHOLDER[kind])
    assert redactions.to_pydict() == {"id": [after.column("id")[0].as_py()], "kind": [kind], "count": [1]}


def test_every_secret_planted_in_real_code_is_found(plain_code: list[str]) -> None:
    places = itertools.cycle((0.1, 0.5, 0.9, 0.3))
    texts, expected = [], []
    for (kind, secret, line), text, place in zip(PLANTED, itertools.cycle(plain_code), places):
        lines = text.splitlines(keepends=True)
        k = int(len(lines) * place)
        head, tail = "".join(lines[:k]), "".join(lines[k:])
        texts.append(head + line.format(secret) + "\n" + tail)
        expected.append(head + line.format(PLACEHOLDER[kind]) + "\n" + tail)
    after, redactions = redact(batch(texts, "ini"), ALL)
    assert after.column("text").to_pylist() == expected
    assert redactions.column("kind").to_pylist() == [kind for kind, _, _ in PLANTED]


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_a_look_alike_is_left_alone(text: str) -> None:
    assert redacted(text) == text
    assert redacted(f"# {text}\nx = 1\n", "yaml") == f"# {text}\nx = 1\n"


def test_settings_files_give_passwords_without_quotes_and_code_does_not() -> None:
    text = "user: app\npassword: hunt3r-two\napi_key: " + LETTERS[:32] + "  # prod\n"
    assert redacted(text, "yaml") == "user: app\npassword: <PASSWORD>\napi_key: <KEY>  # prod\n"
    assert redacted("password = hunt3r_two\n", "python") == "password = hunt3r_two\n"


@pytest.mark.parametrize("join", ["\n", "\r\n", "\\n", '\\n"\n    "', "\n# ", "\n    "])
def test_a_private_key_is_one_placeholder_however_its_lines_are_joined(join: str) -> None:
    text = f'k = """{HEADER}{join}{join.join(PEM_BODY.split())}{join}{FOOTER}"""\nnext = 1\n'
    assert redacted(text) == f'k = """{HEADER}{join}<KEY>{join}{FOOTER}"""\nnext = 1\n'


def test_a_private_key_without_an_end_takes_its_long_lines_only() -> None:
    body = "\n".join(PEM_BODY.split()[:-1])
    assert redacted(f"{HEADER}\n{body}\nimport os\n") == f"{HEADER}\n<KEY>\nimport os\n"


def test_the_armour_of_an_encrypted_private_key_is_kept() -> None:
    armour = f"{HEADER}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,{HEX[:32]}\n\n"
    assert redacted(f"{armour}{PEM_BODY}\n{FOOTER}\n") == f"{armour}<KEY>\n{FOOTER}\n"


def test_each_switch_turns_off_its_kinds_only() -> None:
    text = "a: jane" + "@" + "corp.com 52.14.131.90 'AKIA" + "Q7RZ2LMX9BTN4KCV' password='hunt" + "er2'"
    for off, kept in (
        ({"emails": False}, {"ip_address", "key", "password"}),
        ({"ip_addresses": False}, {"email", "key", "password"}),
        ({"secrets": False}, {"email", "ip_address"}),
    ):
        assert set(redact(batch([text]), config.Redact(**off))[1].column("kind").to_pylist()) == kept


def test_a_batch_without_findings_is_returned_as_it_is(plain_code: list[str]) -> None:
    documents = batch(plain_code)
    after, redactions = redact(documents, ALL)
    assert after is documents
    assert redactions.schema.equals(REDACTIONS, check_metadata=True) and len(redactions) == 0


def test_rows_keep_their_order_and_their_other_columns() -> None:
    texts = ["", "x = 1", PLANTED[0][1] + " " + PLANTED[1][1], "é" * 5, f"{PLANTED[4][1]} {PLANTED[0][1]}", ""]
    documents = batch(["skipped", *texts, "skipped"]).slice(1, len(texts))
    after, redactions = redact(documents, ALL)
    assert after.column("text").to_pylist() == ["", "x = 1", "<EMAIL> <EMAIL>", "é" * 5, "<IP_ADDRESS> <EMAIL>", ""]
    assert after.drop_columns("text").equals(documents.drop_columns("text"))
    assert after.schema.equals(DOCUMENTS, check_metadata=True)
    ids = documents.column("id").to_pylist()
    assert redactions.to_pylist() == [
        {"id": ids[2], "kind": "email", "count": 2},
        {"id": ids[4], "kind": "email", "count": 1},
        {"id": ids[4], "kind": "ip_address", "count": 1},
    ]


def test_a_row_is_redacted_as_if_it_were_alone() -> None:
    key = f"BEGIN RSA PRIVATE KEY{DASHES}\n{PEM_BODY}\n{FOOTER}"
    texts = [
        "x = '----",
        "-" + key,
        "pass",
        "word = 'hunt3r!'",
        "52.14.131.",
        "90",
        "jane@",
        "corp.com",
        "a",
        PLANTED[0][1],
    ]
    assert redact(batch(texts), ALL)[0].column("text").to_pylist() == [redacted(text) for text in texts]


def test_an_empty_batch_stays_empty() -> None:
    after, redactions = redact(batch([]), ALL)
    assert len(after) == 0 and len(redactions) == 0


def test_what_one_replacement_uncovers_is_found_too() -> None:
    text = "login(passwd='x1-version', '52.14.131.90')"
    assert redacted(text) == "login(passwd='<PASSWORD>', '<IP_ADDRESS>')"


def test_a_secret_is_found_wherever_the_parts_of_the_scan_end() -> None:
    secret = "AKIA" + "Q7RZ2LMX9BTN4KCV"
    texts = [" " * (4096 - back) + secret for back in range(len(secret) + 1)]
    after = redact(batch(texts), ALL)[0].column("text").to_pylist()
    assert after == [text.replace(secret, "<KEY>") for text in texts]


GLUE = st.text(max_size=12) | st.sampled_from(["\n", " ", '"', "'", "@", ".", ":", "-", "/", "\\n", "=", "<", ">", "é"])
SNIPPETS = st.sampled_from(
    [line.format(secret) for _, secret, line in PLANTED] + [s for _, s, _ in PLANTED] + LOOK_ALIKES
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(GLUE | SNIPPETS, max_size=8).map("".join), min_size=1, max_size=4), st.sampled_from(["c", "yaml"])
)
def test_redacting_twice_is_redacting_once(texts: list[str], language: str) -> None:
    once, _ = redact(batch(texts, language), ALL)
    once.column("text").validate(full=True)
    twice, redactions = redact(once, ALL)
    assert twice is once and len(redactions) == 0


@settings(deadline=None, max_examples=100)
@given(st.text(), st.text(), st.sampled_from(PLANTED))
@example(">", "", next(each for each in PLANTED if each[2].startswith("aws_secret")))  # "\n\naw" hashes as an anchor
def test_a_secret_on_its_own_line_is_found_in_any_text_and_the_rest_stays(
    head: str, tail: str, planted: tuple[str, str, str]
) -> None:
    kind, secret, line = planted
    text = f"{head}\n\n{line.format(secret)}\n\n{tail}"
    assert redacted(text, "ini") == text.replace(secret, PLACEHOLDER[kind])


@settings(deadline=None, max_examples=150)
@given(st.lists(GLUE | SNIPPETS, max_size=8).map("".join))
def test_lines_and_bytes_outside_the_spans_stay(text: str) -> None:
    offsets, data = text_buffers(pa.array([text], pa.large_string()))
    found = redact_scan.scan(offsets, data, np.arange(1), np.zeros(1, bool))
    spans = disjoint(confirm(offsets, data, found))
    pieces, at = [], 0
    for _, start, end, kind in spans.tolist():
        assert at <= start < end
        pieces += [text.encode()[at:start], PLACEHOLDER[KINDS[kind]].encode()]
        at = end
    once = b"".join([*pieces, text.encode()[at:]]).decode()
    assert redacted(text) == redacted(once)
    removed = "".join(text.encode()[s:e].decode() for _, s, e, kind in spans.tolist() if KINDS[kind] != "key")
    assert "\n" not in removed


NEAR_MISSES = st.sampled_from(
    ["{", "}", "(", "value", "default", "</key><string>", "<![CDATA[", "]]>", "<-", "login(", "BY ", "&", ";",
     "@", ".", ":", "::", "//", "a", "1", "2001", "255", "-BEG", "pass", "pwd", "key", "token", "cred", "=", ":=",
    "str",
     "'", '"', "`", "\\", "\\n", " ", "\t", "\n", "#", "[", "]", "_", "-", "akia", "SG.", "eyJ", "hook", "sk-",
     "q7", "é",
     "abcdefghijklmnopqrstuvwxyz0123456789", "x" * 70]
)  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(
    st.lists(NEAR_MISSES | GLUE | SNIPPETS, max_size=14).map("".join).map(str.encode) | st.binary(max_size=80),
    st.booleans(),
)
def test_the_scan_proposes_what_its_slow_twin_does(text: bytes, settings_file: bool) -> None:
    data = np.frombuffer(b"password=" + text + b"='a1b2c3'", np.uint8)  # neighbours that no look may reach
    offsets = np.array([9, 9 + len(text)])
    found = redact_scan.scan(offsets, data, np.arange(1), np.array([settings_file]))
    assert (found[:, redact_scan.START] >= 9).all() and (found[:, redact_scan.END] <= 9 + len(text)).all()
    expected = {(rule, 9 + start, 9 + end) for rule, start, end in oracle_candidates(text, settings_file)}
    proposed = {(row[redact_scan.RULE], row[redact_scan.START], row[redact_scan.END]) for row in found.tolist()}
    assert expected <= proposed
    # The rest is what hashed anchors share a slot with; the verdict refuses it.
    known = np.array([(r, s, e) in expected for r, s, e in found[:, [1, 3, 4]].tolist()], bool)
    assert len(confirm(offsets, data, found[~known])) == 0


def test_the_scan_and_its_slow_twin_agree_on_real_code(standard_library: list[Path]) -> None:
    for path in standard_library[::250]:
        text = path.read_bytes()
        offsets = np.array([0, len(text)])
        found = redact_scan.scan(offsets, np.frombuffer(text, np.uint8), np.arange(1), np.zeros(1, bool))
        proposed = {(row[1], row[3], row[4]) for row in found.tolist()}
        assert oracle_candidates(text, False) <= proposed


HOSTILE = ["a@a@", "a.b@c.d ", "1.", "9.", "98.97.96.95 ", "2001:", "2a00::1 ", "password=", "pass",
           "pass" * 16 + '="a1b2c3" ',
           "password: str ", 'password="', "password=\\", "eyJh", "eyJh.", "sk-ant-a.", "glagent-" + "a" * 900 + "/",
           HEADER, HEADER + "\n" + "A" * 64 + "\n", "-beg", "://a:b1@",
           "://" + "u" * 120 + ":" + "p1" * 60 + "@c "]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_what_is_looked_at_grows_with_the_text_and_not_faster(unit: str) -> None:
    looked = []
    for size in (20_000, 80_000):
        text = np.frombuffer((unit * (size // len(unit) + 1))[:size].encode(), np.uint8)
        found = redact_scan.scan(np.array([0, size]), text, np.arange(1), np.ones(1, bool))
        looked.append(int((found[:, redact_scan.END] - found[:, redact_scan.CONTEXT]).sum()))
        assert looked[-1] <= 10 * size
    assert looked[1] <= 4.2 * looked[0] + 2 * redact_scan.MAX_LOOK_BYTES


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_repetitions_are_redacted_once_and_for_all(unit: str) -> None:
    text = (unit * (30_000 // len(unit) + 1))[:30_000]
    once, _ = redact(batch([text], "yaml"), ALL)
    assert redact(once, ALL)[0] is once


def test_the_standard_library_keeps_its_literals(standard_library: list[Path]) -> None:
    """Outside its tests, what is found is its authors' addresses, and at most a handful of anything else."""
    paths = [path for path in standard_library if not {"test", "tests"} & set(path.parts)]
    texts = [path.read_bytes().decode("utf-8", "replace") for path in paths]
    found = redact(batch(texts), ALL)[1]
    counts = dict.fromkeys(KINDS, 0)
    for kind, count in zip(found.column("kind").to_pylist(), found.column("count").to_pylist(), strict=True):
        counts[kind] += count
    assert counts["email"] >= 100
    assert counts["ip_address"] <= 10 and counts["key"] <= 3 and counts["password"] <= 3


def test_a_null_text_is_refused() -> None:
    documents = batch(["x"]).set_column(1, DOCUMENTS.field("text"), pa.nulls(1, pa.large_string()))
    with pytest.raises(ValueError, match="null"):
        redact(documents, ALL)
