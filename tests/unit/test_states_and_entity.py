"""fog05's states, entities and instances, and the moves between them."""

from __future__ import annotations

import pytest

from nfio.entity import Entity, EntityInstance
from nfio.errors import AlreadyExists, InvalidValue, NotFound, StateTransitionNotAllowedException
from nfio.states import MOVES, WANTED, State, move_of, wanted_state, way


def test_states_have_fog05s_numbers() -> None:
    assert {state.name: state.value for state in State} == {
        "ERROR": -1,
        "UNDEFINED": 0,
        "DEFINED": 1,
        "CONFIGURED": 3,
        "RUNNING": 4,
        "PAUSED": 5,
        "SCALING": 6,
        "MIGRATING": 7,
        "TAKING_OFF": 8,
        "LANDING": 9,
    }


#: for every step: the states it is allowed in, and where it leads
STEPS = {
    "on_configured": ({State.DEFINED}, State.CONFIGURED),
    "on_start": ({State.CONFIGURED}, State.RUNNING),
    "on_pause": ({State.RUNNING}, State.PAUSED),
    "on_resume": ({State.PAUSED}, State.RUNNING),
    "on_stop": ({State.RUNNING, State.PAUSED}, State.CONFIGURED),
    "on_clean": ({State.CONFIGURED, State.RUNNING, State.PAUSED, State.ERROR}, State.DEFINED),
    "before_migrate": ({State.RUNNING}, State.TAKING_OFF),
    "after_migrate": ({State.TAKING_OFF, State.MIGRATING, State.LANDING}, State.RUNNING),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("step", STEPS)
def test_an_instance_makes_exactly_the_steps_its_state_allows(step: str, state: State) -> None:
    instance = EntityInstance("i", "e")
    instance.set_state(state)
    arguments = ({},) if step == "on_configured" else ()
    sources, target = STEPS[step]
    if state in sources:
        getattr(instance, step)(*arguments)
        assert instance.get_state() is target
    else:
        with pytest.raises(StateTransitionNotAllowedException, match=state.name):
            getattr(instance, step)(*arguments)
        assert instance.get_state() is state


def test_an_entity_lives_from_definition_to_migration_and_back() -> None:
    entity = Entity("e")
    assert entity.get_state() is State.UNDEFINED
    entity.on_defined()
    assert entity.get_state() is State.DEFINED
    entity.on_configured({"image": "a"})
    assert entity.get_state() is State.CONFIGURED and entity.has_instance("e")
    for step, state in (
        ("on_start", State.RUNNING),
        ("on_pause", State.PAUSED),
        ("on_resume", State.RUNNING),
        ("before_migrate", State.TAKING_OFF),
        ("after_migrate", State.RUNNING),
        ("on_stop", State.CONFIGURED),
    ):
        getattr(entity, step)()
        assert entity.get_state() is state
    entity.on_clean()
    assert entity.get_state() is State.DEFINED and entity.instance is None


def test_an_entity_refuses_steps_that_lead_nowhere() -> None:
    entity = Entity("e")
    with pytest.raises(StateTransitionNotAllowedException):
        entity.on_configured()
    entity.on_defined()
    with pytest.raises(StateTransitionNotAllowedException):
        entity.on_defined()
    for step in set(STEPS) - {"on_configured"}:
        with pytest.raises(StateTransitionNotAllowedException, match="no instance"):
            getattr(entity, step)()


def test_an_entity_has_at_most_one_instance() -> None:
    entity = Entity("e")
    first = EntityInstance("i", "e")
    entity.add_instance(first)
    assert entity.get_instance("i") is first and entity.instance is first
    with pytest.raises(AlreadyExists):
        entity.add_instance(EntityInstance("j", "e"))
    entity.remove_instance(first)
    entity.remove_instance(first)
    assert not entity.has_instance("i")
    with pytest.raises(NotFound):
        entity.get_instance("i")


def test_a_state_that_was_seen_makes_and_drops_the_instance() -> None:
    entity = Entity("e")
    entity.on_defined()
    entity.set_state(State.RUNNING)
    assert entity.get_state() is State.RUNNING and entity.instance is not None
    entity.set_state(State.DEFINED)
    assert entity.get_state() is State.DEFINED and entity.instance is None


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize(
    "current", [State.DEFINED, State.CONFIGURED, State.RUNNING, State.PAUSED, State.ERROR]
)
def test_a_way_leads_from_every_state_to_every_state_that_can_be_asked_for(
    current: State, wanted: State
) -> None:
    state = current
    for word in way(current, wanted):
        move = MOVES[word]
        assert state in move.sources
        state = move.target
    assert state is wanted


@pytest.mark.parametrize("current", [State.SCALING, State.MIGRATING, State.TAKING_OFF, State.LANDING])
def test_no_way_leads_out_of_the_middle_of_a_move(current: State) -> None:
    with pytest.raises(StateTransitionNotAllowedException):
        way(current, State.RUNNING)


@pytest.mark.parametrize("word", ["", "Activate", "activate now", "destroy;", "mkdir", "x" * 1000, "\0"])
def test_other_words_are_refused_and_the_words_there_are_named(word: str) -> None:
    with pytest.raises(InvalidValue, match="write one of deploy, activate, start"):
        move_of(word)


@pytest.mark.parametrize("text", ["ERROR", "UNDEFINED", "SCALING", "running", "4", "", "RUNNING PAUSED"])
def test_only_states_that_can_be_reached_can_be_asked_for(text: str) -> None:
    with pytest.raises(InvalidValue, match="write one of DEFINED, CONFIGURED, RUNNING, PAUSED"):
        wanted_state(text)
    assert [wanted_state(state.name) for state in WANTED] == list(WANTED)
