"""The pure parts of the types: what they render, what they parse, what they count."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.hypervisor_base import READY_LINE, REJECTED_LINE, CommandResult
from middleboxes import Guest, LiveFile, Middlebox, Recipe, Settings, firewall, web
from middleboxes.host.nft_listing import zeroing
from nfio.errors import HypervisorError, NotSupported
from nfio.modules import DEFAULT, ModuleRoot, resolve
from nfio.recipes import init_script, recipe_hash

TYPES = ModuleRoot(resolve(DEFAULT)).types()
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")


def counters(entered: int, left: int, carried: int = 0) -> dict[str, int]:
    return {"carried": carried, "entered": entered + 7, "left": left + 7}


# -- firewall ---------------------------------------------------------------------------------


def test_every_packet_is_counted_before_the_first_chain_and_after_the_last() -> None:
    text = firewall.counting_table(17)
    assert "counter carried { packets 17 bytes 0 }" in text
    for hook in HOOKS:
        chain = rf"chain {hook}_\w+ {{ type filter hook {hook} priority (-?\d+); policy accept; "
        found = re.findall(rf'{chain}counter name "(entered|left)"; }}', text)
        priorities = {counter: int(priority) for priority, counter in found}
        assert len(found) == 2 and priorities["entered"] < priorities["left"] == 2147483646
    assert text.count("{") == text.count("}")


def test_what_went_in_and_did_not_come_out_was_dropped() -> None:
    assert firewall.count_drops({}) == 0
    assert firewall.count_drops(counters(10, 10)) == 0
    assert firewall.count_drops(counters(10, 4)) == 6
    assert firewall.count_drops(counters(10, 4, carried=100)) == 106


def test_a_packet_on_its_way_never_makes_the_count_negative() -> None:
    assert firewall.count_drops(counters(3, 5, carried=1)) == 1


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**63), st.integers(0, 2**63), st.integers(0, 2**63))
def test_a_count_goes_on_from_what_was_carried_over(entered: int, left: int, carried: int) -> None:
    assert firewall.count_drops(counters(entered, left, carried)) == carried + max(0, entered - left)


def test_the_ruleset_replaces_all_rules_at_once() -> None:
    (text,) = firewall.render(Settings({"policy": "drop"}, drops=3)).values()
    lines = text.splitlines()
    assert lines[:2] == ['flush ruleset; define POLICY = "drop"', 'include "/etc/nfio/nf_conf"']
    assert lines[2] == ""  # which ends what an nf_conf without a newline at its end does not
    assert firewall.counting_table(3) in text


def test_nfios_own_table_is_not_shown() -> None:
    own = firewall.counting_table(0).replace("  ", "\t")
    first, last = "table inet filter {\n\tchain input {\n\t}\n}\n", "table ip nat {\n}\n"
    assert firewall.without_own_table(first + own + last) == first + last
    assert firewall.without_own_table("") == ""
    similar = "table inet nfio2 {\n}\ntable ip nfio {\n}\n"
    assert firewall.without_own_table(similar) == similar


def test_a_set_is_one_of_each_family_and_no_element_is_in_another() -> None:
    made = {"sets": ("bad",), "sets/bad": ("10.0.0.0_24", "10.0.0.7", "192.0.2.1", "2001:db8::_32")}
    text = "".join(firewall.commands(Settings({}, made), "bad"))
    assert "add element inet filter bad {10.0.0.0/24,192.0.2.1/32,};" in text
    assert "add element inet filter bad-v6 {2001:db8::/32,};" in text
    assert "add element" not in "".join(firewall.commands(Settings(), "bad"))


@pytest.mark.parametrize(
    "name", ["", "a", "10.0.0.1_24", "10.0.0.0/24", "10.0.0.1_", "::1%eth0", "10.0.0.1 "]
)
def test_what_is_no_element_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no address or prefix"):
        firewall.network(name)


def test_counters_are_zeroed_by_replacing_their_rules() -> None:
    listing = """\
table ip mine { # handle 1
\tset s { # handle 4
\t\ttype ipv4_addr
\t}

\tchain in { # handle 2
\t\ttype filter hook input priority filter; policy drop;
\t\ttcp dport { 22, 80 } counter packets 3 bytes 180 accept comment "x # handle 9" # handle 3
\t\tct state established accept # handle 5
\t}
}
"""
    rule = 'tcp dport { 22, 80 } counter packets 0 bytes 0 accept comment "x # handle 9"'
    assert zeroing(listing) == [
        "reset counters table ip mine;",
        f"replace rule ip mine in handle 3 {rule};",
    ]


# -- web --------------------------------------------------------------------------------------

STATUS = """\
Active connections: 3
server accepts handled requests
 11 11 25
Reading: 0 Writing: 1 Waiting: 2
"""


def test_nginx_status_is_parsed() -> None:
    assert web.parse_status(STATUS) == {"active_connections": 3, "connections": 11, "requests": 25}


@pytest.mark.parametrize(
    "text", ["", "<html>404</html>", "Active connections: x", STATUS.replace("11 11", "11")]
)
def test_what_is_no_status_says_what_to_keep_in_the_configuration(text: str) -> None:
    with pytest.raises(HypervisorError, match=r"keep `include /etc/nfio/nfio-status\.conf;`"):
        web.parse_status(text)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_answer_is_a_status_or_refused(text: str) -> None:
    try:
        assert set(web.parse_status(text)) == {"active_connections", "connections", "requests"}
    except HypervisorError:
        pass


def test_the_status_is_served_on_the_loopback_only() -> None:
    ((name, text),) = web.render(Settings(drops=5)).items()
    assert f"listen 127.0.0.1:{web.STATUS_PORT};" in text
    assert f"include /etc/nfio/{name};" in web.MIDDLEBOX.default_config


# -- all types --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_a_type_says_all_that_users_need(kind: str) -> None:
    middlebox = TYPES[kind]
    assert middlebox.type == kind and middlebox.image == f"nfio/{kind}"
    assert middlebox.summary and all(file.summary for _, file in middlebox.all_files())
    assert middlebox.recipe.packages and middlebox.default_config.endswith("\n")
    assert not {"SYS_ADMIN", "SYS_MODULE", "ALL"} & set(middlebox.capabilities)


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_live_files_of_a_vnf_on_another_host_say_that_they_are_not_here(kind: str) -> None:
    def execute(command: list[str]) -> CommandResult:
        return CommandResult(0, b"")

    guest = Guest(f"{kind}/a", "192.0.2.1", None, (), execute)
    for path, file in TYPES[kind].all_files():
        if not isinstance(file, LiveFile):
            continue
        try:
            assert isinstance(file.read(guest, *["a"] * path.count("*")), str | int)
        except NotSupported as error:
            assert "another host" in error.line


# -- the first program of a guest -------------------------------------------------------------


def middlebox(**changes: object) -> Middlebox:
    fields: dict[str, object] = {
        "type": "t",
        "summary": "",
        "recipe": Recipe(()),
        "check": ("true",),
        "reload": ("true",),
        "run": ("echo", "serving"),
    }
    return Middlebox(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Middlebox], tuple[int, list[str]]]:
    """Run the script in a shell here; its exit status and its lines."""

    def run_it(made: Middlebox) -> tuple[int, list[str]]:
        done = subprocess.run(
            ["sh", "-c", init_script(made)], capture_output=True, text=True, timeout=20, cwd=tmp_path
        )
        return done.returncode, done.stdout.splitlines()

    return run_it


Run = Callable[[Middlebox], tuple[int, list[str]]]


def test_a_guest_says_that_it_is_ready_and_serves(run: Run) -> None:
    assert run(middlebox()) == (0, [READY_LINE, "serving"])


def test_a_guest_whose_configuration_is_bad_says_why_and_ends(run: Run) -> None:
    words = 'it\'s "bad": $HOME\nin two lines'
    status, lines = run(middlebox(check=("sh", "-c", f"printf '%s\\n' {shlex.quote(words)} >&2; false")))
    assert (status, lines) == (78, [REJECTED_LINE, *words.splitlines()])


def test_a_configuration_is_applied_before_the_function_runs(run: Run) -> None:
    serve = ("cat", "applied")
    assert run(middlebox(apply=("sh", "-c", "echo yes > applied"), run=serve))[1] == [READY_LINE, "yes"]


def test_what_cannot_be_applied_is_refused_in_the_words_of_what_applies_it(run: Run) -> None:
    refusing = ("sh", "-c", "echo 'line 3: what is this?' >&2; false")
    assert run(middlebox(apply=refusing)) == (78, [REJECTED_LINE, "line 3: what is this?"])


def test_a_guest_is_ready_when_its_function_says_so(run: Run, tmp_path: Path) -> None:
    serve = ("sh", "-c", "touch up; while [ ! -e said ]; do sleep 0.01; done; echo end")
    ready = "{ test -e up && touch said; }"
    status, lines = run(middlebox(run=serve, ready=ready))
    assert status == 0 and set(lines) == {READY_LINE, "end"}


def test_arguments_of_commands_are_never_parts_of_a_shell_line(run: Run) -> None:
    nasty = "a b; touch hacked; $(touch hacked) 'x'"
    assert run(middlebox(run=("echo", nasty)))[1] == [READY_LINE, nasty]
    assert run(middlebox(apply=("test", nasty, "=", nasty)))[0] == 0


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_the_script_of_every_type_is_a_shell_script(kind: str) -> None:
    done = subprocess.run(["sh", "-n"], input=init_script(TYPES[kind]), text=True, timeout=20)
    assert done.returncode == 0


def test_an_image_is_made_anew_when_its_recipe_changes_and_only_then() -> None:
    before = recipe_hash(middlebox())
    assert recipe_hash(middlebox()) == before
    assert recipe_hash(middlebox(default_config="other")) == before
    for change in (
        {"check": ("false",)},
        {"run": None},
        {"ready": "true"},
        {"recipe": Recipe(("nginx",))},
        {"recipe": Recipe((), ("true",))},
    ):
        assert recipe_hash(middlebox(**change)) != before
