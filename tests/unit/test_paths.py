"""The grammar of names and paths."""

from __future__ import annotations

import errno
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfio.errors import InvalidValue, NfioError
from nfio.paths import Location, check_file_name, check_name, is_name, is_temporary, locate, split

quick = settings(max_examples=300, deadline=None)

#: any text, with surrogates, which stand for bytes that are no UTF-8 or for nothing at all
anything = st.text(
    st.characters(exclude_characters="\0") | st.sampled_from(["/", "\ud800", "\udc80", "\udcff", "\udfff"]),
    max_size=400,
)
names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")


@pytest.mark.parametrize("name", ["a", "0", "Fw-1_b.c", "a" * 63, "4913", "www.example.org"])
def test_names_of_letters_digits_dots_and_dashes_are_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", ".a", "-a", "_a", "a" * 64, "a" * 300, "a b", " a", "a ", "a\n", "\n", "a/b", "a'b",
        'a"b', "a$b", "a;b", "a`b", "a\\b", "ä", "a\0", "a\x7f", "\udcff", "a\u2028", "１",
    ],
)  # fmt: skip
def test_everything_else_is_none(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(InvalidValue) as refusal:
        check_name(name)
    assert refusal.value.errno == errno.EINVAL
    assert "\n" not in refusal.value.line and len(refusal.value.line) < 500


@quick
@given(anything)
def test_any_text_is_a_name_by_the_rule_or_refused_with_einval(text: str) -> None:
    rule = (
        1 <= len(text) <= 63
        and text[0] in string.ascii_letters + string.digits
        and set(text) <= set(string.ascii_letters + string.digits + "._-")
    )
    assert is_name(text) == rule
    try:
        assert check_name(text) == text and rule
    except NfioError as error:
        assert error.errno == errno.EINVAL and not rule


@quick
@given(anything)
def test_any_file_name_is_taken_as_it_is_or_refused_with_einval(text: str) -> None:
    encoded = text.encode(errors="surrogatepass")
    try:
        assert check_file_name(text) == text
    except NfioError as error:
        assert error.errno == errno.EINVAL
    else:
        assert len(encoded) <= 255
        assert not re.search("[\x00-\x1f\x7f\udc80-\udcff]", text)


@quick
@given(st.binary(max_size=300).filter(lambda data: b"\0" not in data))
def test_names_that_are_no_utf8_are_refused(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    try:
        data.decode()
    except UnicodeDecodeError:
        with pytest.raises(InvalidValue):
            check_file_name(text)


@quick
@given(anything)
def test_any_path_has_a_place_or_none_and_always_the_same(path: str) -> None:
    found = locate(path)
    assert locate(path) == found
    if found is None:
        assert "nf-types" not in path.split("/")
    else:
        # A place's own path leads to that place again.
        parts = ["nf-types", *(part for part in (found.type, found.instance, found.file) if part)]
        assert locate("/" + "/".join(parts)) == found


@quick
@given(
    names, names, st.lists(names, min_size=1, max_size=3), anything.map(lambda t: t.replace("nf-types", ""))
)
def test_what_stands_before_nf_types_does_not_matter(
    kind: str, name: str, file: list[str], before: str
) -> None:
    below = f"nf-types/{kind}/{name}/{'/'.join(file)}"
    assert locate(f"{before}/{below}") == locate(below) == Location(kind, name, "/".join(file))


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/", None),
        ("", None),
        ("/metrics/nfio.prom", None),
        ("/nf-types", Location()),
        ("/nf-types/", Location()),
        ("/nf-types/web", Location("web")),
        ("/mnt/x/nf-types/web/www", Location("web", "www")),
        ("nf-types//web///www/action", Location("web", "www", "action")),
        ("/nf-types/web/www/config/nf-types", Location("web", "www", "config/nf-types")),
    ],
)
def test_paths_are_located(path: str, place: Location | None) -> None:
    assert locate(path) == place


@pytest.mark.parametrize(
    "name",
    [
        ".ansible_tmpabc123nf_conf", "sedAbC123", "4913", "5036", ".action.swp", ".nf_conf.swx", "nf_conf~",
        ".nf_conf.aB3xYz", ".nf_conf.a1B2c3D4", "#nf_conf#", ".#nf_conf",
    ],
)  # fmt: skip
def test_names_that_clients_give_temporary_files_are_known(name: str) -> None:
    assert is_temporary(name)


@pytest.mark.parametrize(
    "name", ["action", "nf_conf", "rules", "sed", "sedative", ".hidden", "49130", "a.swp"]
)
def test_other_names_are_not_temporary(name: str) -> None:
    assert not is_temporary(name)


@quick
@given(anything)
def test_whether_a_name_is_temporary_can_be_asked_of_any_text(text: str) -> None:
    assert is_temporary(text) in (True, False)


def test_a_file_is_split_into_directory_and_name() -> None:
    assert split("stats/rx_bytes") == ("stats", "rx_bytes")
    assert split("action") == ("", "action")
    assert split("config/a/b") == ("config/a", "b")
