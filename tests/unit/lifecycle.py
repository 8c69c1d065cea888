"""The lifecycle as users are promised it, written down a second time: the tests' own model."""

from __future__ import annotations

from nfio.states import State

#: word: the states it is allowed in, and where it leads
TABLE: dict[str, tuple[set[State], State]] = {
    "deploy": ({State.DEFINED}, State.CONFIGURED),
    "activate": ({State.DEFINED, State.CONFIGURED}, State.RUNNING),
    "start": ({State.CONFIGURED}, State.RUNNING),
    "pause": ({State.RUNNING}, State.PAUSED),
    "resume": ({State.PAUSED}, State.RUNNING),
    "unpause": ({State.PAUSED}, State.RUNNING),
    "stop": ({State.RUNNING, State.PAUSED}, State.CONFIGURED),
    "restart": ({State.RUNNING, State.PAUSED, State.CONFIGURED}, State.RUNNING),
    "reload": ({State.RUNNING}, State.RUNNING),
    "destroy": ({State.CONFIGURED, State.RUNNING, State.PAUSED, State.ERROR}, State.DEFINED),
}

#: the states that a VNF can be found in
STATES = (State.DEFINED, State.CONFIGURED, State.RUNNING, State.PAUSED, State.ERROR)

#: the states that can be asked for
WANTED = (State.DEFINED, State.CONFIGURED, State.RUNNING, State.PAUSED)


def allowed(word: str, state: State) -> bool:
    """Whether a word is accepted: as a move, or because it asks for what is already so."""
    sources, target = TABLE[word]
    return state in sources or state is target
