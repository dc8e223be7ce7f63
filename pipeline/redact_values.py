"""The verdict on tokens, on passwords in URLs, and on values that are given to a name."""

from __future__ import annotations

import base64
import binascii
import itertools
import re
import string

from detect_secrets.filters import heuristic
from detect_secrets.plugins.high_entropy_strings import Base64HighEntropyString, HexHighEntropyString
from detect_secrets.plugins.jwt import JwtTokenDetector

from codemill.pipeline import redact_assignments as forms
from codemill.pipeline.redact_candidate import KEY, PASSWORD, Candidate, Span
from codemill.pipeline.redact_private_keys import bare_key
from codemill.pipeline.redact_shapes import named_shapes, token_rules

# Tokens of known services.

_SAMPLE = re.compile(
    r"example|x{6}|0{8}|1234567890|0?123456789(?:a|$)|abcdefgh|placeholder|your_?|(.)\1{9}", re.IGNORECASE
)
_PADDED = ("twitter", "x-app", "dropbox")  # whose tokens hold a run of one letter
_WORDY = re.compile(r"[a-z]+(?:[_.-][a-z]+)*[0-9]?|[A-Z]+(?:[_.-][A-Z]+)*[0-9]?")
_ALL_HEX = frozenset(string.hexdigits)
_HEX_ENTROPY = HexHighEntropyString(limit=3.0)  # detect-secrets' own limit
# Its limit for text, 4.5 bits, is for any string, and out of reach for 22 characters; a name that says key needs less.
_TEXT_ENTROPY = Base64HighEntropyString(limit=3.3)
_TEXT_ENTROPY.charset = string.printable
_JWT = JwtTokenDetector()


def token(c: Candidate) -> Span | None:
    rule, text = token_rules()[c.detail], c.text
    if rule.rule.startswith("private-key"):
        return bare_key(c)
    if rule.rule in ("jwt", "json-web-token") and not _JWT.is_formally_valid(text):
        return None
    sample = None if rule.rule.startswith(_PADDED) else _SAMPLE.search(text)
    variable = text[len(_literal(rule.shape)) :] or text
    if sample or _WORDY.fullmatch(variable) or _TEXT_ENTROPY.calculate_shannon_entropy(text) < rule.entropy:
        return None
    return c.start, c.end, KEY


def _literal(shape: str) -> str:
    """What every value of a shape begins with."""
    return re.sub(r"\\(.)", r"\1", re.match(r"(?:\\.|[^\[\\{])*", shape)[0])  # type: ignore[index]  # it matches anything


# Names.

_PASSWORD_NAME = re.compile(
    r"passw(?:or[dt])?s?|passphrase|passcode|kennwort|(?:^|[^a-z])(?:pass|pwd?|pswd?|psw|senha)(?![a-z])"
    r"|(?-i:[a-z](?:Pass|Pwd|Pswd)(?![a-z]))|[a-z](?:pwd|passwd|pswd)(?![a-z])|(?:db|my|root|admin|user|ssh|pg|require|bind|smtp|wifi|key|store)pass(?![a-z])"
    r"|(?:^|[^a-z])psk$|[a-z_-]pw(?![a-z])|(?:^|_)pw$|securestring$",
    re.IGNORECASE,
)
_KEY_NAME = re.compile(
    r"secret|token|credential|(?:^|[_-])creds?(?![a-z])|(?:^|[_-])auth(?![a-z])|(?:^|[_-])pat(?![a-z])|salt(?![a-z])"
    r"|(?:api|access|auth|authentication|private|priv|service|account|encrypt(?:ion)?|signing|sign|master|shared|consumer"
    r"|app|application|client|deploy|storage|session|jwt|hmac|admin|root|write|license|licence|subscription|webhook"
    r"|security|pre[_-]?shared|ssh|nonce|logged[_-]?in|aes|des|cipher|crypto|project|server|bot|push|publish|upload"
    r"|[a-z]{2,}ing|function|bearer|refresh|registry|vault|wifi|wpa|deterministic|derivation|recovery|backup|unseal|fernet|kms|admin|search[_-]?admin)[_.-]?key(?![a-z])",
    re.IGNORECASE,
)
_NOT_SECRET_NAME = re.compile(  # `password_hash`, `token_url`, `public_key`, but not `profile_password`
    r"hash|digest|checksum|sha_?[0-9]|md5|public|publish(?:able)?[_-]?key|fingerprint|tokeniz|site[_-]?key"
    r"|(?:next|continuation|page|pagination|sync)_?token"
    r"|(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|credential|key)s?[_-]?"
    r"(?:regex|pattern|type|ids?(?![a-z])|ur[il]|path|file|name|label|prompt|help|hint|field|len|size|min|max|policy"
    r"|last|changed|date|expir|class|format|version|prefix|suffix|header|param|placeholder|message|error|count|limit"
    r"|column|index|kind|endpoint|arn|encryption|encoder|algorithm|scheme|method|mechanism|mode|source)",
    re.IGNORECASE,
)
_UUID_NAME = re.compile(
    r"_authtoken|(?:api|access|secret|auth)[_-]?key$|(?:api|access|auth|upload|codecov|consul|http|npm)[_-]?token$",
    re.IGNORECASE,
)
_NAME = re.compile(r"[\w.-]*", re.ASCII)

_LOGIN_NAME = re.compile(r"(?:login|auth|credentials?|begin|pdo|run|connect|connection)$", re.IGNORECASE)

# Values.

_DISCORD = re.compile(r"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}")
_MIN_SIGNATURE = 40
_PLACEHOLDER = re.compile(
    r"example|(?<![a-z])your(?![a-z])|your[_-]|change[_-]?(?:me|this|it)|changeit|placeholder|dummy|sample|xxx|\*\*\*|\.\.\."
    r"|redacted|todo|replace[_-]?(?:me|this|with)|insert[_-]|passw(?:or)?[dt]|passphrase|passcode|secret|token|credential"
    r"|(?<![A-Za-z])(?:my)?keys?(?![A-Za-z])|(?-i:[a-z]Key(?![a-z]))|api[_-]?key|undefined|<[^<>]*>|fixme|fake|mock"
    r"|^\[[^\[\]]*\]$|filtered|oauth2?(?![a-z0-9])",
    re.IGNORECASE,
)
_WORDS = re.compile(r"-?[A-Za-z]+(?:[-.][A-Za-z]+)*[!?:.,;*]*")
# a.b, a::b, ./path, c:\path, %s, $x; but `V.4k!x` is none: its parts are no names
_REFERENCE = re.compile(
    r"[A-Za-z_][\w-]*(?:(?:[./:\\]+|->)[A-Za-z_][\w-]*)+(?:[./:\\][\w./:\\>-]*)?|\.{0,2}/.*|[$%&@].*"
    r"|[.+&] ?\$[A-Za-z_].*"  # what joins two strings
)
_OWN_NAME = re.compile(r"(?![0-9])[\w$]*(?:token|secret|passw|credential)[\w$]*", re.IGNORECASE)
_SETTING = re.compile(r"[A-Za-z_]\w*(?:=|://).*")  # of a variable, or a URL
_SCOPE = re.compile(rb"@[\w.-]+/$")  # of npm, before a package's name
_CALL = re.compile(r"[A-Za-z_][\w.:>-]*[(\[]")
_TEMPLATE = re.compile(r"\{[^{}]*\}|<[^<>]*>|\([^()]*\)|\$\{|\{\{|%\(")
_MIN_DRAWN = 12
_NO_VOWELS = re.compile(r"[b-df-hj-np-tv-xz]{4}", re.IGNORECASE)
_CAPITALS = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|[a-z][a-z0-9]*(?:_[a-z0-9]+)+|[A-Za-z]+[0-9]{1,3}")
_MIN_KEY_LENGTH = 16
_MIN_URL_PASSWORD = 4
_CHANGES = re.compile(r"(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")
_BYTES_PER_CHANGE = 12  # base64 changes between letters and digits every 4 characters, base32 every 5, words hardly
_SHORT_KEY = re.compile(r"(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9]{12,}")
_ACCOUNT = re.compile(r"0x[0-9a-fA-F]{40}")  # an address of Ethereum, which is public
_CHECKSUM = re.compile(r"(?:hash|sha[0-9]{1,3}|md5|h1)[=:-]", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_password(value: str) -> bool:
    """Whether a literal can be a real password; words alone cannot be told from names and labels."""
    return not (
        (_WORDS.fullmatch(value) and not _is_drawn(value))
        or _REFERENCE.fullmatch(value)
        or _TEMPLATE.search(value)
        or _PLACEHOLDER.search(value)
        or " " in value
        or heuristic.is_sequential_string(value)
        or heuristic.is_not_alphanumeric_string(value)
    )


def _is_drawn(value: str) -> bool:
    """Whether letters and digits are drawn at random: case changes more often than in words, and vowels are few."""
    changes = sum(a.islower() != b.islower() for a, b in itertools.pairwise(value))
    return value.isalnum() and len(value) >= _MIN_DRAWN and changes * 3 >= len(value) and bool(_NO_VOWELS.search(value))


def is_strong(value: str) -> bool:
    """Whether a value without quotes is no name: it mixes kinds of characters as names do not."""
    kinds = [any(map(test, value)) for test in (str.islower, str.isupper, str.isdigit)]
    signs = any(character in "!#%^*@$&+?~=" for character in value)
    return is_password(value) and sum(kinds) + signs >= 3 and not _CAPITALS.fullmatch(value)


def is_key(value: str) -> bool:
    """Whether a literal given to a name that says key is random enough to be one."""
    if _ACCOUNT.fullmatch(value):
        return False
    value = re.sub(r"^(?:base64:|0x|hex:|Bearer |Basic |Token |token )", "", value)
    short = len(value) < _MIN_KEY_LENGTH and not (_SHORT_KEY.fullmatch(value) and len(_CHANGES.findall(value)) > 2)
    if short or _CHECKSUM.search(value) or _SAMPLE.search(value) or heuristic.is_templated_secret(value):
        return False
    if heuristic.is_potential_uuid(value) or heuristic.is_sequential_string(value) or " " in value:
        return False
    drawn = _is_drawn(value) and not value.isalpha()
    if len(_CHANGES.findall(value)) < max(2, len(value) / _BYTES_PER_CHANGE) and not drawn:
        return False
    judge = _HEX_ENTROPY if set(value) <= _ALL_HEX else _TEXT_ENTROPY
    return judge.calculate_shannon_entropy(value) > judge.entropy_limit


def is_basic(value: str) -> bool:
    """Whether a value is a user and a password in base64 (RFC 7617)."""
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False
    _user, _, password = decoded.partition(b":")
    return len(password) >= _MIN_URL_PASSWORD and decoded.isascii() and decoded.decode().isprintable()


# A value without quotes ends where a connection string, a URL's query or a flow of YAML goes on.
_GOES_ON = re.compile(r";\s*[\w ]+=|&[\w.-]+=|,\s|[})\],;]+$")
# What a connection string or a URL has before its password.
_CONNECTION = re.compile(
    rb"(?:server|host|source|database|catalog|user|uid|id|dsn|driver|endpoint|account\w*|hostname|sid|port|address|url"
    rb"|dbname|name)\s*=[^\n]*[;&?,\s]$|://[^\s]*[?&;]$|jdbc:[^\s]*[?&;:]$",
    re.IGNORECASE,
)
_FLAG = re.compile(rb"(?:^|[\s\"'`(=])(?:-e|--env|--?[\w-]*|export|set|ENV|ARG|-D|env|sudo|\$)[ =]?$|^\s*$")
# Names after which a blank is an operator: definitions, options, SQL, .netrc, redis.conf.
_DEFINES = re.compile(
    rb"#\s*define\s+$|(?:^|\n)\s*(?:ENV|ARG)\s+$|--?$|(?:^|\n)\s*(?:set|setenv|setx|export|default)\s+$"
    rb"|authorization[\"']?\s*[:=]\s*[\"'`]?$|[:({]$|login\s+\S+\s+$|\b(?:user|role|login|with|by|encrypted)\s+(?:[\"'`\w@%.-]+\s+)*$|(?:^|\n)\s*(?:require|master)?$",
    re.IGNORECASE,
)
_LOOKUP = re.compile(rb"env|config|default|get|option|param|setting|prop|\bor\b|\|\||\?", re.IGNORECASE)
_CONSTRUCTOR = re.compile(
    rb"(?:string|str|from|new|secret\w*|some|just|bytes?|buffer|optional|of|ref|ptr|text|password|char|cstr|value|value_?of"
    rb"|parse|decode\w*|unhex\w*|fromhex|to_?string|sensitive|quote|raw|literal|constant|\])[!<>&\w]*\s*\($",
    re.IGNORECASE,
)
_BACK = 200


def assignment(c: Candidate) -> Span | None:
    name = _NAME.match(str(c.data[c.context : c.start], "latin-1"))[0]  # type: ignore[index]  # it matches anything
    if (
        _NOT_SECRET_NAME.search(name)
        or c.back(c.context, 2) == b"::"
        or _SCOPE.search(c.back(c.context, forms.MAX_NAME_BYTES))
        or (c.detail != forms.QUOTED and not _fits(c, name))
    ):
        return None
    end = c.end
    if c.detail in (forms.LINE, forms.BARE_LONG, forms.PART, forms.PAIR):
        goes_on = _GOES_ON.search(c.text)
        end = c.start + goes_on.start() if goes_on and goes_on.start() else end
    value = str(c.data[c.start : end], "latin-1")
    bare = c.detail in (forms.LINE, forms.BARE_LONG, forms.PART)
    if len(value) < forms.MIN_VALUE_BYTES or (bare and _is_name(c, name, value)):
        return None
    if c.detail in (forms.ARGUMENT, forms.DEFAULT) and _LOGIN_NAME.search(name):
        return _login(c, value)
    if name.lower() == "sig":  # of a shared access signature of Azure, which has an expiry
        return (c.start, end, KEY) if b"se=" in c.back(c.context, _BACK) and len(value) >= _MIN_SIGNATURE else None
    if _PASSWORD_NAME.search(name) or name.lower() == "identified":
        good = is_password if c.detail in (forms.QUOTED, forms.ELEMENT, forms.LINE, forms.WRAPPED) else _plain_password
        return (c.start, end, PASSWORD) if good(value) else None
    return (c.start, end, KEY) if _is_named_key(name, value) else None


def _is_name(c: Candidate, name: str, value: str) -> bool:
    """Whether a value without quotes is a call, a variable called after what it holds, or the name of a resource."""
    return bool(_CALL.match(value) or _OWN_NAME.fullmatch(value)) or _in_list(c, name)


def _in_list(c: Candidate, name: str) -> bool:
    """Whether a name stands between colons, as in the name of a resource."""
    after = bytes(c.data[c.context + len(name) : c.start])
    return after == b":" and c.back(c.context, 1) == b":"


def _login(c: Candidate, value: str) -> Span | None:
    """The password that follows a user in a call, or a bot's token."""
    if _DISCORD.fullmatch(value):
        return c.start, c.end, KEY
    if b"(" not in bytes(c.data[c.context : c.start]):  # two strings of a list
        return None
    second = c.back(c.start, 8).rstrip(b"\"'`@ ").endswith(b",")
    return (c.start, c.end, PASSWORD) if second and is_strong(value) else None


def _plain_password(value: str) -> bool:
    return is_password(value) and not _CAPITALS.fullmatch(value)


def _is_named_key(name: str, value: str) -> bool:
    """Whether a value is a key, by its name and by its own look."""
    if _KEY_NAME.search(name):
        if is_key(value) or (_UUID_NAME.search(name) and _UUID.fullmatch(value)):
            return True
        if name.lower().rpartition("_")[2] in ("auth", "password") and is_basic(value):
            return True
    return any(
        shape.fullmatch(value) and names.search(name) and not _SAMPLE.search(value) and _is_random(value, entropy)
        for names, shape, entropy in named_shapes()
    )


def _is_random(value: str, entropy: float) -> bool:
    if _WORDY.fullmatch(value) or heuristic.is_sequential_string(value):
        return False
    return _TEXT_ENTROPY.calculate_shannon_entropy(value) >= max(entropy, 2.5)


def _fits(c: Candidate, name: str) -> bool:
    """Whether the way in which a value is given to its name makes it a literal."""
    form, between = c.detail, bytes(c.data[c.context + len(name) : c.start])
    if form == forms.PART:
        before, value = c.back(c.context, _BACK).rpartition(b"\n")[2], c.text
        if _CONNECTION.search(before):
            return is_password(value)
        alone = not before.strip() or (before[-1:].isspace() and not c.after[:1].strip())
        if _REFERENCE.fullmatch(value):
            return False
        stated = b":" in between and not value.isalnum()
        known = (
            bool(_FLAG.search(before))
            or name.isupper()
            or name.startswith("-")
            or (alone and not value.isalnum())
            or stated
        )
        return (is_strong(value) and known) or is_key(value)
    if form == forms.AFTER_BLANK:
        before = c.back(c.context, _BACK)
        if name.lower() == "identified" or b" by " in between.lower():
            return True
        if _SETTING.fullmatch(c.text):
            return False
        quoted = between[-1:] in (b"'", b'"', b"`")
        strong = is_strong(c.text) or is_key(c.text)
        return (bool(_DEFINES.search(before)) and (quoted or strong)) or (strong and (quoted or name.startswith("-")))
    if form == forms.DEFAULT:
        looked_up = bool(_LOOKUP.search(between)) or name.lower().endswith("auth")
        return looked_up and (is_strong(c.text) or is_key(c.text))
    if form == forms.AFTER_TYPE:
        return is_password(c.text)
    if form == forms.WRAPPED:
        return bool(_CONSTRUCTOR.search(between.rstrip(b"'\"`")))
    if form in (forms.ARGUMENT, forms.PAIR):
        return is_strong(c.text) or is_key(c.text)
    return True


def credentials(c: Candidate) -> Span | None:
    """A password in a URL, or the token that stands in place of user and password."""
    value = c.text
    if c.back(c.start, 1) != b":":
        public = b"sentry" in c.after  # its DSN has a public key
        return (c.start, c.end, KEY) if is_key(value) and not public else None
    return (c.start, c.end, PASSWORD) if len(value) >= _MIN_URL_PASSWORD and is_password(value) else None
