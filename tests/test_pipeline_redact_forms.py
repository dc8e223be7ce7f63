"""The forms in which code holds secrets, and what only looks like one; every value is drawn, none was ever issued."""

from __future__ import annotations

import base64
import random
import string

import pytest
from test_pipeline_redact import batch

from codemill.pipeline.config import Redact
from codemill.pipeline.redact import redact

DRAW = random.Random("forms")
ALNUM = string.ascii_letters + string.digits


def some(length: int, alphabet: str = ALNUM) -> str:
    return "".join(DRAW.choices(alphabet, k=length))


PASSWORD = "Q" + some(9) + "#417"
KEY = some(40)
HEX = some(32, "0123456789abcdef")
LINES = [base64.b64encode(DRAW.randbytes(48)).decode() for _ in range(12)] + [
    base64.b64encode(DRAW.randbytes(9)).decode()
]
BEGIN, END = ("-" * 5 + f"{word} RSA PRIVATE KEY" + "-" * 5 for word in ("BEGIN", "END"))

# (language, text around the password)
PASSWORDS = [
    ("c#", 'public string Password { get; set; } = "{}";'), ("c#", 'new NetworkCredential("bob", "{}")'),
    ("go", 'var password string = "{}"'), ("go", "password := `{}`"), ("kotlin", 'val password: String = "{}"'),
    ("rust", 'let password = String::from("{}");'), ("r", 'password <- "{}"'), ("clojure", '{:password "{}"}'),
    ("erlang", '{password, "{}"}'), ("python", 'password = (\n    "{}"\n)'), ("python", 'auth=("admin", "{}")'),
    ("python", 'password = SecretStr("{}")'), ("javascript", 'const password = process.env.P ?? "{}"'),
    ("ruby", "password = ENV.fetch('DB_PASSWORD') { '{}' }"), ("perl", "password => '{}',"),
    ("php", "'password' => env('DB_PASSWORD', '{}'),"), ("java", 'props.put("mail.password", "{}");'),
    ("c", 'char password[32] = "{}";'), ("c++", 'std::string password{"{}"};'), ("c", '#define WIFI_PASS "{}"'),
    ("sql", "CREATE USER 'u'@'h' IDENTIFIED WITH mysql_native_password BY '{}';"),
    ("sql", "SET PASSWORD FOR 'u'@'h' = PASSWORD('{}');"), ("hcl", 'variable "db_password" {\n  default = "{}"\n}'),
    ("yaml", "env:\n- name: DB_PASSWORD\n  value: {}"), ("yaml", "db: {user: app, password: {}}"),
    ("xml", "<password><![CDATA[{}]]></password>"), ("xml", "<key>password</key>\n<string>{}</string>"),
    ("xml", '<property name="password" value="{}"/>'),
    ("xml", '<c connectionString="Server=d;User Id=s;Password={}" />'),
    ("dockerfile", "ENV A=1 DB_PASSWORD={} B=2"), ("ini", "machine a.io login bot password {}"),
    (None, "requirepass {}"), (None, "password: {}"), (None, "db:5432:app:app:{}"),
    ("shell", "PGPASSWORD={} psql"), ("shell", "mysqldump -u root -p'{}' db"), ("shell", "sshpass -p {} ssh h"),
    ("shell", "curl --user 'admin:{}' https://x.io"), ("shell", "openssl rsa -passin pass:{} -in k"),
    ("shell", "docker run -e MYSQL_ROOT_PASSWORD={} mysql"), ("powershell", 'ConvertTo-SecureString "{}" -Force'),
    ("xml", '<wsse:Password Type="PasswordText">{}</wsse:Password>'), ("xml", "<password>\n  {}\n</password>"),
    ("xml", '<property name="password"><value>{}</value></property>'), ("json", '"adminPassword": {"value": "{}"}'),
    ("shell", "x --db-password {} --y"), ("json", '["--password={}"]'), ("shell", "echo 'root:{}' | chpasswd"),
    ("shell", "htpasswd -b f user {}"), ("java", 'DriverManager.getConnection("jdbc:h2:x", "sa", "{}")'),
    ("python", 'c = "host=db user=app password={} port=5432"'), ("python", '"{\\"password\\": \\"{}\\"}"'),
]  # fmt: skip
KEYS = [
    ("shell", "curl -H 'X-Auth-Token: {}' https://x", HEX), ("shell", 'curl -H "Authorization: token {}"', KEY),
    ("yaml", "kind: Secret\ndata:\n  api-key: {}", base64.b64encode(KEY.encode()).decode()),
    ("json", '{"kty": "OKP",\n  "d": "{}"}', some(43)), ("json", '{"k": "{}", "kty": "oct"}', some(43)),
    ("python", '"{\\"kty\\":\\"EC\\",\\"d\\":\\"{}\\"}"', some(43)),
    ("xml", "<RSAKeyValue><Modulus>a</Modulus><InverseQ>{}</InverseQ></RSAKeyValue>", LINES[0]),
    ("javascript", "client.login('{}')", "MTA" + some(21) + "." + some(6) + "." + some(38)),
    ("swift", 'let clientSecret: String = "{}"', "AKEgejidVgiLGnUeRgdKPyPbgPaHVK0B"),
    ("ini", "[Interface]\nPrivateKey = {}", base64.b64encode(DRAW.randbytes(32)).decode()),
    ("python", 'f("{}")', "MIIEpAIBAAKCAQEA" + some(800)),
    (None, "https://x.blob.core.windows.net/c?se=2025-01-01&sig={}", some(41) + "%2B" + some(1) + "%3D"),
]  # fmt: skip
JOINS = {
    "java": '\\n" +\n    "', "php": '\\n"\n . "', "lua": '\\n" ..\n  "',
    "haskell": '\\n" <>\n  "', "ocaml": '\\n" ^\n  "',
    "sql": "' || chr(10) ||\n  '", "visual basic": '" & vbCrLf & _\n  "', "c#": '" + Environment.NewLine +\n  "',
    "perl": '\\n";\n$k .= "', "java builder": '\\n");\nsb.append("', "go slice": '",\n\t"', "c": '\\r\\n"\n  "',
    "c macro": '\\n" \\\n  "', "json": "\\n", "json twice": "\\\\n", "comment": "\n// ", "url": "%0A",
    "xml": "&#xA;", "html": "<br>\n", "one line": " ", "yaml": "\n    ",
    "batch": ">>k.pem\necho ", "rust": "\\n\\\n   ",
    "smalltalk": "', String lf,\n  '", "python": '\\n"\n     b"',
}  # fmt: skip
EMAILS = [
    "jürgen." + some(5) + "@" + "web.de", some(6) + "@" + "müller.de", some(6) + "@" + "xn--80a1acny.xn--p1ai",
    "иван" + "@" + "почта.рф", "JANE@" + "CORP.COM", "x" + some(4, "abc") + "@" + "Roe.Com", "a@" + "roe.photography",
]  # fmt: skip
STAY = [
    f'narHash = "sha256-{LINES[0]}"', f"  a: 4.2.1(patch_hash={HEX}{HEX})", f"next-auth: 4.2(patch_hash={HEX}{HEX})",
    f"integrity: sha512-{KEY}{KEY}==", f"x v1.2.3 h1:{base64.b64encode(bytes(range(32))).decode()}",
    f'"AWS::ApiGateway::ApiKey": "{HEX[:16]}"', "arn:aws:secretsmanager:us-east-1:1:secret:MyDatabaseSecret-a1b2c3",
    "password_encryption = scram-sha-256", 'password: "[FILTERED]"', "token: ${{ secrets.GH_TOKEN_1 }}",
    "label.password=Passwort1:", "password = base64.b16encode(random_bytes[8:])", "token: this.form.token2,",
    "Password string `json:\"password1\"`", "u = f'postgres://{user}:{password1}@{host}'",
    "mysql -uroot -p$MYSQL_PWD db1",
    "curl -u \"$USER:$PASS1\" https://x", "Authorization: Bearer YOUR_TOKEN_123", "deps: upgrade V8 to 45.112.34.200",
    "    rails (45.112.34.200)", "gem 'x', '~> 45.112.34.200'", "X-45.112.34.200.nupkg", "OID_KEY = '2.5.29.35'",
    "c-2.12 1.08.58 45.112.34.20 2.03.5", "3fff:1::1 2001:db8:1::1", "img@2x.png user@1000.service", "src/foo@bar.sh",
    "<key>CFBundleVersion</key>\n<string>45.112.34.200</string>", '<dependency id="X" version="[45.112.34.200, )" />',
    "## 45.112.34.200 (2020-01-01)", "- x=45.112.34.200=py38_0", "${X_VERSION:-45.112.34.200}", "'1.3.101.110'",
    "'@inquirer/password': 5.1.1(@types/node@24.3.0)", "{ recaptchaToken: recaptchaV2Token, }", "pass USE_ZLIB=1",
    '-u user:secret "pop3s://mail:110/1"', "['--password='.$connection['password']]", "${DB_PASSWORD:-postgres}",
    f"address token = 0x{HEX}{HEX[:8]};", "amqp://user:UserIdToGetIt@host", "https://sso:ClientLoginPage@host",
    "x@slot.name", "hmac-sha2-256-etm@openssh.com", "lodash@4.17.21.js", "getty@tty1.service",
]  # fmt: skip


@pytest.mark.parametrize("password", ["dlMMIIAbXwLTIeCK", "VzZLrNTbIHuU", "qHxTbwRkZpLm"])
def test_a_password_of_letters_drawn_at_random_is_no_word(password: str) -> None:
    assert redacted(f"git clone https://bob:{password}@git.acme.io/x", None) == (
        "git clone https://bob:<PASSWORD>@git.acme.io/x"
    )


def redacted(text: str, language: str | None) -> str:
    return redact(batch([text], language), Redact())[0].column("text")[0].as_py()


@pytest.mark.parametrize(("language", "text"), PASSWORDS)
def test_a_password_goes_and_its_form_stays(language: str | None, text: str) -> None:
    assert redacted(text.replace("{}", PASSWORD, 1) if "{}" in text else text, language) == text.replace(
        "{}", "<PASSWORD>", 1
    )


@pytest.mark.parametrize(("language", "text", "key"), KEYS)
def test_a_key_goes_and_its_form_stays(language: str | None, text: str, key: str) -> None:
    assert redacted(text.replace("{}", key), language) == text.replace("{}", "<KEY>")


@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
def test_a_private_key_is_one_placeholder_in_every_language(join: str) -> None:
    text = f'k = "{join.join([BEGIN, *LINES, END])}"\nnext = 1\n'
    assert redacted(text, "text") == f'k = "{join.join([BEGIN, "<KEY>", END])}"\nnext = 1\n'


def test_the_private_lines_of_putty_go_and_its_public_lines_stay() -> None:
    head = f"PuTTY-User-Key-File-2: ssh-rsa\nPublic-Lines: 1\n{LINES[1]}\nPrivate-Lines: {len(LINES)}\n"
    tail = f"\nPrivate-MAC: {HEX}\n"
    assert redacted(head + "\n".join(LINES) + tail, None) == head + "<KEY>" + tail


@pytest.mark.parametrize("address", EMAILS)
def test_an_address_of_any_script_is_replaced(address: str) -> None:
    assert redacted(f"To: <{address}>, {address}.", "text") == "To: <<EMAIL>>, <EMAIL>."


@pytest.mark.parametrize("text", STAY)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert redacted(f"{text}\n", "yaml") == f"{text}\n"
    assert redacted(f"{text}\n", "python") == f"{text}\n"
