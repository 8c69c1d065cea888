"""The states of an entity and the moves between them.

The states and their numbers are those of fog05's ``States`` module; the words are
what users write to ``action``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from nfio.errors import InvalidValue, StateTransitionNotAllowedException


class State(Enum):
    """States of entities."""

    ERROR = -1
    UNDEFINED = 0
    DEFINED = 1
    CONFIGURED = 3
    RUNNING = 4
    PAUSED = 5
    SCALING = 6
    MIGRATING = 7
    TAKING_OFF = 8
    LANDING = 9


@dataclass(frozen=True)
class Move:
    """One row of the lifecycle: ``word`` leads from any of ``sources`` to ``target``."""

    word: str
    sources: frozenset[State]
    target: State


def _move(word: str, target: State, *sources: State) -> tuple[str, Move]:
    return word, Move(word, frozenset(sources), target)


MOVES: dict[str, Move] = dict(
    (
        _move("deploy", State.CONFIGURED, State.DEFINED),
        _move("activate", State.RUNNING, State.DEFINED, State.CONFIGURED),
        _move("start", State.RUNNING, State.CONFIGURED),
        _move("pause", State.PAUSED, State.RUNNING),
        _move("resume", State.RUNNING, State.PAUSED),
        _move("unpause", State.RUNNING, State.PAUSED),
        _move("stop", State.CONFIGURED, State.RUNNING, State.PAUSED),
        _move("restart", State.RUNNING, State.RUNNING, State.PAUSED, State.CONFIGURED),
        _move("reload", State.RUNNING, State.RUNNING),
        _move("destroy", State.DEFINED, State.CONFIGURED, State.RUNNING, State.PAUSED, State.ERROR),
    )
)

#: Words that act although the instance is already in the state they lead to.
ALWAYS_ACT = frozenset({"restart", "reload"})

#: States in which a VNF holds no traffic and may be removed.
REMOVABLE = frozenset({State.DEFINED, State.CONFIGURED, State.ERROR})

_WAYS: dict[tuple[State, State], tuple[str, ...]] = {
    (State.DEFINED, State.CONFIGURED): ("deploy",),
    (State.DEFINED, State.RUNNING): ("activate",),
    (State.DEFINED, State.PAUSED): ("activate", "pause"),
    (State.CONFIGURED, State.DEFINED): ("destroy",),
    (State.CONFIGURED, State.RUNNING): ("start",),
    (State.CONFIGURED, State.PAUSED): ("start", "pause"),
    (State.RUNNING, State.DEFINED): ("destroy",),
    (State.RUNNING, State.CONFIGURED): ("stop",),
    (State.RUNNING, State.PAUSED): ("pause",),
    (State.PAUSED, State.DEFINED): ("destroy",),
    (State.PAUSED, State.CONFIGURED): ("stop",),
    (State.PAUSED, State.RUNNING): ("resume",),
    (State.ERROR, State.DEFINED): ("destroy",),
    (State.ERROR, State.CONFIGURED): ("destroy", "deploy"),
    (State.ERROR, State.RUNNING): ("destroy", "activate"),
    (State.ERROR, State.PAUSED): ("destroy", "activate", "pause"),
}

#: What may be written to the file ``state``.
WANTED = (State.DEFINED, State.CONFIGURED, State.RUNNING, State.PAUSED)


def move_of(word: str) -> Move:
    """The move a word asks for.

    Raises:
        InvalidValue: it is not one of the words.
    """
    try:
        return MOVES[word]
    except KeyError:
        raise InvalidValue(f"{word[:40]!r} is not an action: write one of {', '.join(MOVES)}") from None


def wanted_state(text: str) -> State:
    """The state a write to the file ``state`` asks for.

    Raises:
        InvalidValue: it is not a state, or not one that can be asked for.
    """
    for state in WANTED:
        if state.name == text:
            return state
    raise InvalidValue(
        f"{text[:40]!r} is not a state to ask for: write one of {', '.join(s.name for s in WANTED)}"
    )


def way(current: State, wanted: State) -> tuple[str, ...]:
    """The words that lead from ``current`` to ``wanted``; empty if it is there already.

    Raises:
        StateTransitionNotAllowedException: it is in the middle of a move.
    """
    if current is wanted:
        return ()
    try:
        return _WAYS[current, wanted]
    except KeyError:
        raise StateTransitionNotAllowedException(
            f"no way leads from {current.name} to {wanted.name}"
        ) from None


def advice(state: State) -> str:
    """What a user can do whose word is not allowed now."""
    if state is State.ERROR:
        return "`echo RUNNING > state` starts it again, `echo destroy > action` removes what is left of it"
    allowed = [move.word for move in MOVES.values() if state in move.sources]
    return f"{', '.join(allowed)} would be" if allowed else "wait for its end"
