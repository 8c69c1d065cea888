"""The values that ``machine/`` and ``boot.conf`` accept."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfio import values
from nfio.errors import InvalidValue
from nfio.instance_files import one_line

quick = settings(max_examples=300, deadline=None)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("", None),
        ("\n", None),
        ("64M\n", 64 << 20),
        ("1G", 1 << 30),
        ("1g", 1 << 30),
        ("2GiB", 2 << 30),
        ("512KB", 512 << 10),
        ("1T", 1 << 40),
        ("67108864", 67108864),
        (" 1 ", 1),
    ],
)
def test_memory_is_bytes_or_a_number_with_a_unit(text: str, amount: int | None) -> None:
    assert values.parse_memory(text.encode()) == amount


@pytest.mark.parametrize(
    "text",
    ["-1", "0", "0M", "NaN", "inf", "1" + "0" * 30, "64M; rm -rf /", "64 M", "1.5G", "M", "64X", "0x40", "1e9",
     "64M\n64M", "６４M", "64M\0"],
)  # fmt: skip
def test_other_amounts_of_memory_are_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        values.parse_memory(text.encode())


@pytest.mark.parametrize(("text", "number"), [("", None), ("1\n", 1.0), ("0.5", 0.5), ("4096", 4096.0)])
def test_cpus_are_a_positive_number(text: str, number: float | None) -> None:
    assert values.parse_vcpu(text.encode()) == number


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "1e9", "one", "1;reboot", "1 1", "0.0001", "1\n2"])
def test_other_numbers_of_cpus_are_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        values.parse_vcpu(text.encode())


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("", ""),
        ("localhost\n", ""),
        ("10.0.0.15", "10.0.0.15"),
        ("::1", "::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("host-1.example.org", "host-1.example.org"),
        ("root@10.0.0.15", "root@10.0.0.15"),
    ],
)
def test_a_host_is_an_address_or_a_name(text: str, host: str) -> None:
    assert values.parse_host(text.encode()) == host


@pytest.mark.parametrize(
    "text",
    ["-oProxyCommand=id", "a b", "a;b", "$(id)", "a/b", "http://a", "a@b@c", "x" * 254, "a\nb", "ä", "@a"],
)
def test_other_hosts_are_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        values.parse_host(text.encode())


@pytest.mark.parametrize(
    "text", ["", "nginx", "nfio/web", "reg.example.org:5000/a/b:1.0", "a@sha256:00ff", "/a.qcow2"]
)
def test_images_are_names_with_tags_and_digests(text: str) -> None:
    assert values.parse_image(f"{text}\n".encode()) == text


@pytest.mark.parametrize(
    "text", ["--privileged", "a b", "a;b", "$(id)", "`id`", "a|b", "a&b", "a>b", "'a'", "x" * 256]
)
def test_flags_and_shell_characters_are_no_image(text: str) -> None:
    with pytest.raises(InvalidValue):
        values.parse_image(text.encode())


def test_boot_conf_holds_lines_of_key_and_value() -> None:
    assert values.parse_boot_conf(b"") == values.BootConfig(autostart=False)
    assert values.parse_boot_conf(b"restart=on-failure\n") == values.BootConfig(restart=True)
    assert values.parse_boot_conf(b"# boots\n\n autostart = yes \n") == values.BootConfig(autostart=True)
    assert values.parse_boot_conf(b"autostart=yes\nautostart=no\n") == values.BootConfig(autostart=False)


@pytest.mark.parametrize(
    "text",
    [
        b"restart",
        b"restart=yes",
        b"autostart=on-failure",
        b"autostart",
        b"autostart=",
        b"autostart=maybe",
        b"=yes",
        b"cpu=1",
        b"\xff",
        b"autostart=yes;id",
    ],
)
def test_unknown_keys_and_values_of_boot_conf_are_refused_with_their_line(text: bytes) -> None:
    with pytest.raises(InvalidValue, match=r"boot\.conf"):
        values.parse_boot_conf(text)


@pytest.mark.parametrize("file", values.CHECKS)
def test_more_than_64_kib_are_refused(file: str) -> None:
    with pytest.raises(InvalidValue, match="at most 65536 bytes"):
        values.check(file, b" " * (64 << 10) + b"\n")


@quick
@given(st.sampled_from(sorted(values.CHECKS)), st.binary(max_size=300) | st.text(max_size=100).map(
    lambda text: text.encode(errors="surrogatepass")))  # fmt: skip
def test_any_content_is_accepted_or_refused_with_einval(file: str, data: bytes) -> None:
    try:
        values.check(file, data)
    except InvalidValue as error:
        assert error.line and "\n" not in error.line


@quick
@given(st.integers(min_value=1, max_value=10**17), st.sampled_from(["", "K", "M", "G", "T"]))
def test_memory_reads_back_as_it_was_written(number: int, unit: str) -> None:
    amount = values.parse_memory(f"{number}{unit}\n".encode())
    assert amount == number * 1024 ** ["", "K", "M", "G", "T"].index(unit)
    if number < 10**17 / 1024**4:
        assert values.parse_memory(str(amount).encode()) == amount


@quick
@given(st.floats())
def test_cpus_are_taken_exactly_where_a_kernel_could_give_them(number: float) -> None:
    try:
        assert values.parse_vcpu(repr(number).encode()) == number
    except InvalidValue:
        assert math.isnan(number) or not 0.01 <= number <= 4096


@quick
@given(st.booleans(), st.lists(st.sampled_from(["", "  ", "# autostart=perhaps"])))
def test_boot_conf_reads_back_as_it_was_written(autostart: bool, around: list[str]) -> None:
    text = "\n".join([*around, f"autostart={'yes' if autostart else 'no'}", *around])
    assert values.parse_boot_conf(text.encode()).autostart == autostart


@quick
@given(st.binary(max_size=400))
def test_an_order_is_one_text_or_refused_with_einval(data: bytes) -> None:
    try:
        text = one_line(data, "action")
    except InvalidValue:
        return
    assert text == data.decode().strip() != "" and "\0" not in text and len(data) <= 256
