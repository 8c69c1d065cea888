"""Errors: each has an errno, and a reason that fits on one line of a terminal."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfio import errors
from nfio.errors import LINE_LIMIT, HypervisorError, NfioError

ERRNOS = {
    "NfioError": errno.EIO,
    "InvalidValue": errno.EINVAL,
    "ConfigurationRejected": errno.EINVAL,
    "NotPermitted": errno.EPERM,
    "AccessDenied": errno.EACCES,
    "NotFound": errno.ENOENT,
    "AlreadyExists": errno.EEXIST,
    "NotADirectory": errno.ENOTDIR,
    "IsADirectory": errno.EISDIR,
    "NotEmpty": errno.ENOTEMPTY,
    "Busy": errno.EBUSY,
    "StateTransitionNotAllowedException": errno.EBUSY,
    "NetworkDown": errno.ENETDOWN,
    "HypervisorError": errno.EIO,
    "HypervisorUnreachable": errno.EHOSTUNREACH,
    "HypervisorTimeout": errno.ETIMEDOUT,
    "NotSupported": errno.EOPNOTSUPP,
    "NoSuchVnf": errno.EIO,
}

CLASSES = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, NfioError)
}


def test_every_error_has_the_errno_that_users_are_promised() -> None:
    assert {name: found.errno for name, found in CLASSES.items()} == ERRNOS


@pytest.mark.parametrize("name", CLASSES)
def test_the_tree_at_the_top_of_the_module_shows_every_error(name: str) -> None:
    assert f" {name} " in f"{errors.__doc__} ".replace("\n", " ")


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters() | st.sampled_from(["\udcff", "\x1b", "\n", "\0", "\u202e"]), max_size=2000))
def test_any_reason_is_one_line_of_ascii_that_does_nothing_to_a_terminal(reason: str) -> None:
    line = HypervisorError(reason).line
    assert line.isascii() and line.isprintable()
    assert len(line) <= LINE_LIMIT + 3


def test_a_reason_of_words_is_kept_as_it_is() -> None:
    assert HypervisorError("no such\n  image: 'a'").line == "no such image: 'a'"
    assert HypervisorError("\x1b[31mred").line == "\\x1b[31mred"
